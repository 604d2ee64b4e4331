"""What hosts have installed and share, a folder for each set of requirements: how much that is, and what of it goes.

The payload builds each under a lock on `KEY.lock`, marks it as whole, and touches the mark when a host is to use it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gpuctl.core.codec import parse

LIMIT_BYTES = 20 * 10**9
"""Beyond it those go that were not used for longest: about twenty of PyTorch without a GPU."""
_MARK = "gpuctl-whole"
_JUST_USED_S = 60.0
"""A host that has just found one has not yet written down that it uses it."""


@dataclass(frozen=True)
class SharedEnvironment:
    """One of them. `used_at`: when a host last found it, in seconds since the epoch; 0 where its build never ended."""

    path: Path
    used_at: float
    bytes: int


def listed(folder: Path) -> list[SharedEnvironment]:
    """All of them, those that were not used for longest first."""
    paths = [path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()]
    return sorted((_looked_at(path) for path in paths), key=lambda one: one.used_at)


def total_bytes(environments: list[SharedEnvironment]) -> int:
    """What they take together."""
    return sum(one.bytes for one in environments)


def remove_unused(folder: Path, *, hosts: Path, limit_bytes: int = 0) -> list[SharedEnvironment]:
    """Remove what no host below `hosts` uses, the longest unused first, until the rest is within the limit."""
    there = listed(folder)
    used, left, removed = _in_use(hosts), total_bytes(there), []
    for one in there:
        if one.used_at and left <= limit_bytes:
            break
        if one.path in used or time.time() - one.used_at < _JUST_USED_S:
            continue
        with _nobody_builds(one.path) as free:
            if free:
                # First the mark: half an environment must not be taken for a whole one.
                (one.path / _MARK).unlink(missing_ok=True)
                shutil.rmtree(one.path, ignore_errors=True)
                removed.append(one)
                left -= one.bytes
    return removed


def _looked_at(path: Path) -> SharedEnvironment:
    mark = path / _MARK
    try:
        used_at, said = mark.stat().st_mtime, mark.read_text(encoding="ascii")
    except (OSError, ValueError):
        return SharedEnvironment(path, 0.0, _size_of(path))
    if not said.isdigit():
        said = str(_size_of(path))
        with suppress(OSError):  # written down so that thousands of files are looked at once
            mark.write_text(said, encoding="ascii")
            os.utime(mark, (used_at, used_at))
    return SharedEnvironment(path, used_at, int(said))


def _size_of(path: Path) -> int:
    return sum(_blocks(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def _in_use(hosts: Path) -> set[Path]:
    """The environments that hosts were provisioned with."""
    used = set()
    for record in hosts.glob("*/home/gpuctl/provisioned.json"):
        try:
            said = parse(record.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(said, dict) and isinstance(said.get("environment"), str):
            used.add(Path(said["environment"]))
    return used


@contextmanager
def _nobody_builds(path: Path) -> Iterator[bool]:
    """Whether nobody builds it, and nobody does until this ends: the payload's own lock, flock(2) on that file."""
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
