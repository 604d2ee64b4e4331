"""Which Python a job needs and which one an image brings: told before money is spent.

Versions and specifiers are PEP 440's (https://packaging.python.org/en/latest/specifications/version-specifiers/).
"""

from __future__ import annotations

import re

from packaging.specifiers import SpecifierSet

from gpuctl.core.errors import JobError

_OF_UBUNTU = {"20.04": "3.8", "22.04": "3.10", "24.04": "3.12"}
"""The `python3` of Ubuntu's releases, which is an image's where nothing else is said."""

_UBUNTU = re.compile(r"ubuntu\W(?:[a-z]+-)?(\d\d\.\d\d)", re.IGNORECASE)
_DESCRIBED = re.compile(r"; Python (\d+\.\d+(?:\.\d+)?)$")
_MOST_MICRO = 99
_LONGEST_SPECIFIER = 400


def is_specifier(text: str) -> bool:
    """Whether this is a set of version specifiers: `>=3.10,<3.14`."""
    if len(text) > _LONGEST_SPECIFIER:  # packaging compares each with all others
        return False
    try:
        SpecifierSet(text).contains("3.10")  # that it can be compared shows only then: a number may have no end
    except ValueError:
        return False
    return True


def python_of_image(name: str, description: str) -> str | None:
    """The version of an image's `python3`, or as much as its name and description tell of it: `3.12.1`, `3.10`, None.

    A description that ends in `; Python 3.12.1` says it; else the Ubuntu release in the name does.
    """
    if described := _DESCRIBED.search(description):
        return described[1]
    release = _UBUNTU.search(name)
    return _OF_UBUNTU.get(release[1]) if release else None


def allows(requires: str, python: str) -> bool:
    """Whether a Python will do. Of a version without its last number (`3.10`), whether some of them would."""
    wanted = SpecifierSet(requires)
    known = python.split(".")
    candidates = [python] if len(known) > 2 else [f"{python}.{micro}" for micro in range(_MOST_MICRO)]
    return any(wanted.contains(one, prereleases=True) for one in candidates)


def refuse_python(job: str, requires: str | None, python: str | None, *, where: str) -> None:
    """Raises JobError where the job is known to need another Python than is there. `where` says what has that one."""
    if requires is None or python is None or allows(requires, python):
        return
    raise JobError(
        f"job {job} needs Python {requires}, but {where} {python}",
        f"if it also runs on {python}, say so with `requires-python` in its job.toml",
    )
