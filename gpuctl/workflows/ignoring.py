"""The patterns of a `.gpuctlignore`, matched by RE2: no pattern takes longer than its length is worth."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from gpuctl.core.errors import JobError
from gpuctl.core.text import shorten


class Patterns:
    """What the lines of an ignore file say of a name. Raises JobError, which names `file` and the line."""

    def __init__(self, lines: Sequence[str], file: Path) -> None:
        if len(lines) > _MOST_LINES:
            raise JobError(f"{file} has {len(lines):,} lines", f"{_MOST_LINES:,} are the most: use patterns of folders")
        try:
            self._spec = _compiled(lines)
        except Exception as error:  # whatever pathspec, re or re2 say of a line
            number, line = _first_wrong(lines)
            said = shorten(repr(line), _MOST_TOLD)
            raise JobError(f"{file}, line {number}: {said} is not a pattern", "correct it, or remove it") from error

    def says(self, name: str, *, folder: bool) -> bool | None:
        """True if a name is left out, False if it is brought back, None if no line is about it."""
        if not self._spec.patterns:
            return None
        encodable = os.fsencode(name).decode("utf-8", "replace")
        return self._spec.check_file(encodable + "/" * folder).include


_MOST_TOLD = 100
_MOST_LINES = 2000
"""RE2 takes minutes for a hundred times as many, and complains on the terminal."""


def _compiled(lines: Sequence[str]) -> GitIgnoreSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GitIgnoreSpec.from_lines(lines, backend="re2")


def _first_wrong(lines: Sequence[str]) -> tuple[int, str]:
    for number, line in enumerate(lines, 1):
        try:
            _compiled([line])
        except Exception:  # noqa: BLE001
            return number, line
    return len(lines), "all of it"
