"""A Python that is started on a module imports nothing from the folder that it is started in."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from gpuctl.core.interpreter import module_command
from gpuctl.workflows.local import local_command

PRINTS = "import sys, colorsys\nprint(colorsys.__file__, *sys.argv[1:])\n"


@pytest.mark.parametrize("empty", ["{lib}", ":{lib}", "{lib}:", "{lib}::{lib}"])
@pytest.mark.parametrize("named", [False, True])
def test_the_working_folder_is_imported_from_where_it_is_named_alone(tmp_path: Path, empty: str, named: bool) -> None:
    """An empty entry of PYTHONPATH is a slip of a shell's; an absolute one is meant."""
    here, lib = tmp_path / "here", tmp_path / "lib"
    for folder in (here, lib):
        folder.mkdir()
    (here / "colorsys.py").touch()
    (lib / "prints.py").write_text(PRINTS)
    path = empty.format(lib=lib) + (f":{here}" if named else "")
    command = module_command(sys.executable, "prints", "word", flags=["-u"])
    done = subprocess.run(
        command, cwd=here, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    found, word = done.stdout.split()
    assert (Path(found).parent == here, word) == (named, "word"), done.stderr


@pytest.mark.parametrize("path", [None, "", ":", ":/nowhere"])
def test_a_folder_that_is_installed_is_imported_from(tmp_path: Path, path: str | None) -> None:
    """gpuctl in its own checkout, installed there to be edited, whatever PYTHONPATH is."""
    (tmp_path / "prints.py").write_text(PRINTS)
    (tmp_path / "colorsys.py").touch()
    venv.EnvBuilder(symlinks=True, with_pip=False).create(tmp_path / "venv")
    (site_packages,) = tmp_path.glob("venv/lib/python*/site-packages")
    (site_packages / "here.pth").write_text(f"{tmp_path}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        module_command(str(tmp_path / "venv/bin/python"), "prints", "word"),
        cwd=tmp_path,
        env=environment if path is None else {**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    found, word = done.stdout.split()
    assert (Path(found).parent != tmp_path, word) == (True, "word"), done.stderr


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["-m", "jobs.from_scratch.train"], []),
        (["-u", "-m", "jobs.from_scratch.train"], ["-u"]),
        (["-X", "dev", "-Wignore", "-um", "jobs.from_scratch.train"], ["-X", "dev", "-Wignore", "-u"]),
        (["-mjobs.from_scratch.train"], []),
    ],
)
def test_a_local_jobs_module_is_found_behind_pythons_own_flags(
    tmp_path: Path, flags: list[str], kept: list[str]
) -> None:
    """However `python -m` is written, a json.py of this folder is not the job's."""
    words = ["python", *flags, "--epochs", "2"]
    command = local_command("from_scratch", words, outputs=tmp_path / "out", environment=os.environ).words
    rest = ["jobs.from_scratch.train", "--epochs", "2"]
    assert command == module_command(sys.executable, *rest, flags=kept)


@pytest.mark.parametrize("words", [["-c", "print()", "-m", "x"], ["train.py", "-m", "x"], ["-m"]])
def test_what_starts_no_module_is_left_as_it_is(tmp_path: Path, words: list[str]) -> None:
    """A script's own `-m` is the script's."""
    command = local_command("from_scratch", ["python", *words], outputs=tmp_path, environment=os.environ).words
    assert command == [sys.executable, *words]
