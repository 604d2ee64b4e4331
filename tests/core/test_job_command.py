"""A command whose program is the job's own file: what would not run on a host is refused before one is paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuctl.core.errors import JobError
from gpuctl.core.plan import Upload
from gpuctl.workflows.commands import check_command
from gpuctl.workflows.uploads import collect


def check(folder: Path, *words: str) -> None:
    """As a launch of that folder does."""
    check_command(words, collect([Upload(str(folder), ".")], [], root=folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with scripts, good and bad ones."""
    for name, content in (
        ("good.sh", b"#!/bin/sh\necho\n"),
        ("mark.sh", b"\xef\xbb\xbf#!/bin/bash\n"),
        ("program", b"\x7fELF\0\r\n"),
        ("bin/tool", b"#!/bin/sh\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "plain.sh").write_text("echo\n")
    (tmp_path / "also").symlink_to("bin")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["./good.sh", "./program", "bin/tool x", "also/tool", "sh plain.sh", "bash -c x", "python x.py", "/bin/sh gone.sh"],
)
def test_what_can_be_run_passes(folder: Path, command: str) -> None:
    """Scripts, programs, what lies behind a link, and whatever is the host's own."""
    check(folder, *command.split())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("./gone.sh", "gone.sh is not among the uploaded files"),
        (".venv/bin/python x.py", "is simply `python`"),
        ("./plain.sh", "plain.sh is not executable; run `chmod"),
        ("./mark.sh", "mark.sh begins with a byte order mark"),
    ],
)
def test_what_no_host_could_run_is_refused(folder: Path, command: str, says: str) -> None:
    """The line says what is wrong with which file, and how to mend it."""
    with pytest.raises(JobError, match=says):
        check(folder, *command.split())
