"""The Pythons that embedded images bring, each asked of the interpreter itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 9)
_ASK_TIMEOUT_S = 30

# It reads on Python 2 too, so that an old one is told in one line. Below a virtualenv is the Python that made it, which
# only Python 3.11 and newer name by themselves.
_ASK = """
import json, os, sys
paths = [sys.executable]
base = getattr(sys, "base_prefix", sys.prefix)
if base != sys.prefix:
    named = [base + "/bin/python%d.%d" % sys.version_info[:2], base + "/bin/python3", os.path.realpath(sys.executable)]
    outside = [path for path in [getattr(sys, "_base_executable", "")] + named if path]
    outside = [path for path in outside if not path.startswith(os.path.join(sys.prefix, "")) and os.path.exists(path)]
    paths = outside + paths
print(json.dumps({"path": paths[0], "version": sys.version.split()[0], "minor": list(sys.version_info[:2])}))
"""


class PythonError(ValueError):
    """What is named is no Python that a host could have, in one line."""


@dataclass(frozen=True)
class Python:
    """An interpreter: its `path`, never a virtualenv's, and its `version` (`3.12.1`)."""

    path: str
    version: str

    @property
    def minor(self) -> str:
        """Its version without the last part, as its program's name has it: `3.12`."""
        return ".".join(self.version.split(".")[:2])


def find_pythons(named: Iterable[str]) -> list[Python]:
    """The Pythons of these paths, or of these names on PATH; this process's own where none is named.

    Raises PythonError, also where two are of one version: an image is found by it.
    """
    found: list[Python] = []
    for name in named:
        python = ask(name)
        for other in found:
            if other.minor == python.minor:
                raise PythonError(
                    f"{python.path} and {other.path} are both Python {python.minor}: name only one of them"
                )
        found.append(python)
    return found or [ask(sys.executable)]


def ask(named: str) -> Python:
    """What the interpreter says of itself; of a virtualenv's, what the one below it is. Raises PythonError."""
    path = shutil.which(named) if os.sep not in named else str(Path(named).absolute())
    if path is None or not Path(path).is_file():
        raise PythonError(f"there is no Python at {named}")
    try:
        done = subprocess.run(
            [path, "-E", "-s", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no answer within {_ASK_TIMEOUT_S} s"
        raise PythonError(f"{named} does not run: {reason}") from error
    return _answered(named, done)


def _answered(named: str, done: subprocess.CompletedProcess[str]) -> Python:
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        python, minor = Python(path=answer["path"], version=answer["version"]), tuple(answer["minor"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        words = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise PythonError(f"{named} does not run as a Python: {words[-1]}") from error
    if minor < OLDEST:
        raise PythonError(f"{named} is Python {python.version}; a host needs 3.9 or newer")
    return python
