"""What was written is on the disk, whatever becomes of the laptop's power."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EROFS})
"""A disk that does not do it, or not to folders (some network ones), or holds nothing that was written."""
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """An open descriptor, closed at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def if_there() -> Iterator[None]:
    """What is not there (any more), or is a link now, is passed over."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise


def sync_above(folder: Path) -> None:
    """A folder above DEST, which may have been made for it."""
    with contextlib.suppress(PermissionError), closing(os.open(folder, os.O_RDONLY | os.O_CLOEXEC)) as descriptor:
        sync(descriptor)


def sync(descriptor: int) -> None:
    """A file's content, or a folder's names, on the disk. Raises OSError where the disk fails."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def empty_cache(descriptor: int) -> None:
    """On macOS fsync leaves things in the disk's own cache, and this empties all of it (fsync(2) there)."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):  # a disk that has no such command
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
