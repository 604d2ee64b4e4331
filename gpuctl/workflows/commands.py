"""What this machine can see of a command before a host is paid for: its own program, among what goes up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gpuctl.core.errors import JobError
from gpuctl.core.uploads import UploadContent

_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
_HEAD = 4096
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def check_command(words: Sequence[str], content: UploadContent) -> None:
    """Refuse a program of the job's own that is not uploaded, or that no host could run. Raises JobError."""
    first = words[0]
    if "/" in first and not first.startswith(("/", "../")):
        source = _source(first, content)
        if source is None:
            raise JobError(
                f"the command's program {first} is not among the uploaded files",
                "check its path; on the host, a virtualenv's Python is simply `python`",
            )
        if source and not os.access(source, os.X_OK):
            raise JobError(f"{first} is not executable", f"run `chmod +x {first}`, or put its interpreter in front")
        _check_script(first, source)
    elif first in _SHELLS and len(words) > 1:
        _check_script(words[1], _source(words[1], content) or "")


def _source(name: str, content: UploadContent) -> str | None:
    """Where an uploaded file lies here; "" behind a link to a folder, None if it is not uploaded."""
    name = os.path.normpath(name)
    if any(name.startswith(f"{link}/") for link in content.links):
        return ""
    return content.files.get(name)


def _check_script(name: str, source: str) -> None:
    if not source:
        return
    with Path(source).open("rb") as file:
        head = file.read(_HEAD)
    if b"\0" in head:
        return
    if head.startswith(_BYTE_ORDER_MARK):
        raise JobError(f"{name} begins with a byte order mark, which hides its first line", "save it as plain UTF-8")
