"""The patterns of a `.gpuctlignore`, matched by RE2: no pattern takes longer than its length is worth."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import re2
from pathspec import GitIgnoreSpec

from gpuctl.core.errors import JobError


class Patterns:
    """What the lines of an ignore file say of a name. Raises JobError, which names `file` and the line."""

    def __init__(self, lines: Sequence[str], file: Path) -> None:
        try:
            self._spec = _compiled(lines)
        except _WRONG as error:
            number, line = _first_wrong(lines)
            raise JobError(f"{file}, line {number}: {line!r} is not a pattern", "correct it, or remove it") from error

    def says(self, name: str, *, folder: bool) -> bool | None:
        """True if a name is left out, False if it is brought back, None if no line is about it."""
        if not self._spec.patterns:
            return None
        encodable = os.fsencode(name).decode("utf-8", "replace")
        return self._spec.check_file(encodable + "/" * folder).include


_WRONG = (re.error, re2.error, ValueError)


def _compiled(lines: Sequence[str]) -> GitIgnoreSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GitIgnoreSpec.from_lines(lines, backend="re2")


def _first_wrong(lines: Sequence[str]) -> tuple[int, str]:
    for number, line in enumerate(lines, 1):
        try:
            _compiled([line])
        except _WRONG:
            return number, line
    return len(lines), "all of it"
