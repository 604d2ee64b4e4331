"""The Python of an image: what its hosts have, whatever the laptop runs on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cloud_fixtures import DLAMI, Cloud, run_cloud
from pythons_here import another_python
from real_hosts import launch_host

from gpuctl.embedded_cloud.pythons import PythonError, ask, find_pythons

ASKED = """
python3 -c 'import sys; print(sys.executable, sys.version.split()[0])'
python -c 'import sys; print(sys.version.split()[0])'
python3 -m venv --without-pip made && made/bin/python -c 'import sys; print(sys.version.split()[0], sys.base_prefix)'
pip --version | sed 's/.*(python \\(.*\\))/\\1/'
bash -lc 'python3 -c "import sys; print(sys.version.split()[0])"'
env | grep -E '^(PYTHON|VIRTUAL_ENV|PIP_PYTHON|PYENV|CONDA)' || echo nothing of the laptop
"""


def test_each_image_has_the_python_that_it_was_given(state: Path) -> None:
    """The default image the first, each other one of its own, found by parameter; none sees the laptop's own."""
    other, own = another_python(), ask(sys.executable)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VIRTUAL_ENV": "/laptop", "PIP_PYTHON": "/laptop"}
    words = ["start", "--state", str(state), "--python", other.path, "--python", own.path]
    done = subprocess.run(
        [sys.executable, "-m", "gpuctl.embedded_cloud", *words], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    cloud = Cloud(state=state, endpoint=answer["endpoint"], pid=answer["pid"], lost=[])
    told = json.loads(run_cloud("status", state).stdout)["pythons"]
    assert [(one["path"], one["version"]) for one in told] == [(one.path, one.version) for one in (other, own)]
    ssm = cloud.client("ssm")
    images = [ssm.get_parameter(Name=one["image_parameters"]["x86_64"])["Parameter"]["Value"] for one in told]
    assert images[0] == ssm.get_parameter(Name=DLAMI)["Parameter"]["Value"] != images[1]
    for image, python in zip(images, (other, own), strict=True):
        said = launch_host(cloud, ImageId=image).run(ASKED).splitlines()
        prefix = str(Path(python.path).parents[1])
        assert said == [
            f"{python.path} {python.version}",
            python.version,
            f"{python.version} {prefix}",
            python.minor,
            python.version,
            "nothing of the laptop",
        ]


def test_a_python_that_cannot_be_had_is_one_line(state: Path, tmp_path: Path) -> None:
    """One that is not there, does not run, is none, or is too old: said at the start, and no cloud runs."""
    scripts = {
        "broken": "exit 3",
        "other": "echo hello",
        "old": """echo '{"path": "x", "version": "3.8.1", "minor": [3, 8]}'""",
    }
    for name, text in scripts.items():
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    (tmp_path / "no-program").write_text("x")
    said = {
        "missing": "there is no Python at",
        "no-program": "does not run",
        "broken": "does not run as a Python: exit code 3",
        "other": "does not run as a Python",
        "old": "is Python 3.8.1; a host needs 3.9 or newer",
    }
    for name, words in said.items():
        done = run_cloud("start", state, "--no-hosts", "--python", str(tmp_path / name))
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done
        assert words in done.stderr
    assert json.loads(run_cloud("status", state).stdout)["running"] is False


def test_a_cloud_with_another_python_is_not_taken_for_the_one_asked_for(state: Path, tmp_path: Path) -> None:
    """Refused in one line that says what runs; the same again, or none asked for, is the cloud that is there."""
    own = ask(sys.executable)
    cloud = Cloud.start(state, "--no-hosts", "--python", sys.executable)
    assert Cloud.start(state).pid == Cloud.start(state, "--python", own.path).pid == cloud.pid
    done = run_cloud("start", state, "--python", another_python().path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"is already running, with Python {own.version}" in done.stderr and "gpuctl cloud stop" in done.stderr


def test_below_a_virtualenv_is_the_python_that_made_it(tmp_path: Path) -> None:
    """A host never has the laptop's virtualenv for its Python, with all that is installed there."""
    for python in {another_python().path, ask(sys.executable).path}:
        made = tmp_path / Path(python).parents[1].name
        subprocess.run([python, "-m", "venv", "--without-pip", str(made)], check=True, timeout=60)
        found = ask(str(made / "bin" / "python"))
        assert Path(found.path).samefile(python)
        assert not found.path.startswith(str(made))


def test_two_of_one_version_are_refused() -> None:
    """An image is found by its Python's version, so there is one of each."""
    with pytest.raises(PythonError, match="are both Python"):
        find_pythons([sys.executable, sys.executable])
