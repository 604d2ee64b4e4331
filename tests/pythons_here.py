"""The Pythons that this machine has, for hosts whose Python is not the laptop's."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest

from gpuctl.embedded_cloud.pythons import Python, PythonError, ask

_MINORS = [f"3.{minor}" for minor in range(9, 16)]


@cache
def pythons_here() -> dict[str, Python]:
    """By minor version (`3.12`), each that runs: this one, those on PATH, and pyenv's."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    found = {}
    for minor in _MINORS:
        named = [shutil.which(f"python{minor}"), *sorted(map(str, home.glob(f".pyenv/versions/{minor}.*/bin/python3")))]
        for path in filter(None, named):
            try:
                python = ask(path)
            except PythonError:  # such as a shim of pyenv's for a version that is not there
                continue
            found.setdefault(python.minor, python)
    own = ask(sys.executable)
    return {**found, own.minor: own}


def another_python() -> Python:
    """One that is not this process's; the test is skipped where there is none."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    others = [python for minor, python in pythons_here().items() if minor != own]
    if not others:
        pytest.skip(f"this machine has Python {own} alone")
    return others[0]
