"""Whether this host's Python is one that the job can use, before anything is fetched for it.

The specifiers are PEP 440's, of which `requires-python` uses the plain part: releases, no letters.
"""

from __future__ import annotations

import re
import sys
from typing import Optional

from provisioning.protocol import PayloadError

_CLAUSE = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?([a-z0-9.+-]*)", re.IGNORECASE)


def check_python(requires: Optional[str]) -> None:
    """Raises PayloadError where the job needs another Python than this one."""
    here = sys.version_info[:3]
    if requires and not satisfies(requires, here):
        version = ".".join(map(str, here))
        raise PayloadError(
            f"the job needs Python {requires}, and this host's python3 is {version}",
            "launch from an image that has such a Python, or correct `requires-python`",
        )


def satisfies(requires: str, version: tuple[int, ...]) -> bool:
    """Whether a release has every clause of `>=3.10,<3.14`. Raises PayloadError for what is no clause."""
    return all(_clause(part.strip(), version) for part in requires.split(",") if part.strip())


def _clause(text: str, version: tuple[int, ...]) -> bool:
    found = _CLAUSE.fullmatch(text)
    if found is None:
        raise PayloadError(f"{text!r} is not a version specifier", "correct the job's `requires-python`")
    operator, numbers, any_after = found.group(1), tuple(map(int, found.group(2).split("."))), bool(found.group(3))
    longest = max(len(numbers), len(version))
    wanted, here = _padded(numbers, longest), _padded(version, longest)
    if operator in ("==", "===", "!="):
        same = here[: len(numbers)] == numbers if any_after else here == wanted
        return same is (operator != "!=")
    if operator == "~=":
        return here >= wanted and here[: len(numbers) - 1] == numbers[:-1]
    return {"<=": here <= wanted, ">=": here >= wanted, "<": here < wanted, ">": here > wanted}[operator]


def _padded(numbers: tuple[int, ...], length: int) -> tuple[int, ...]:
    """3.10 is 3.10.0."""
    return numbers + (0,) * (length - len(numbers))
