"""DEST: the folder that outputs come home to. Nothing is written but beneath it, whatever lies in it already.

Each folder on the way is opened by itself, relative to the one above and without following a link, so that no link in
DEST leads a file out of it. A file is written aside and renamed into place whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from gpuctl.core.errors import GpuctlError, UsageError
from gpuctl.core.outputs import ASIDE, AtHome

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYNC_FROM = 1024 * 1024
"""Bytes: what is this large is a model, and must be on the disk before a host may forget it."""
_UNNAMEABLE = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
_OCCUPIED = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY})


class InTheWay(Exception):
    """A file that cannot be written below DEST: why, and whether a person could clear the way."""

    def __init__(self, why: str, *, clearable: bool) -> None:
        super().__init__(why)
        self.why = why
        self.clearable = clearable


class Aside:
    """A file that is being written. `write` until it is whole."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        self.size = 0
        self.placed = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self.size += len(data)


class Destination:
    """DEST, held by one pull at a time. A context manager; what was half written is gone when it is left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = -1
        self._aside = -1
        self._folder = (-1, "")
        self._count = 0

    def __enter__(self) -> Destination:
        with self._local_errors():
            self._path.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._lock()
                with contextlib.suppress(FileExistsError):
                    os.mkdir(ASIDE, 0o700, dir_fd=self._root)
                self._aside = os.open(ASIDE, _FOLDER, dir_fd=self._root)
                self._clear_aside()
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._clear_aside()
            os.rmdir(ASIDE, dir_fd=self._root)
        self._close()

    def _close(self) -> None:
        for descriptor in (self._aside, self._root, self._folder[0]):
            if descriptor >= 0:
                os.close(descriptor)
        self._aside = self._root = -1
        self._folder = (-1, "")

    def _lock(self) -> None:
        # Held by the folder itself, so that no lock file lies among the outputs.
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another pull into {self._path} is going on", "wait for it") from None
        except OSError:
            return  # a file system without locks (some network ones)

    def _clear_aside(self) -> None:
        for name in os.listdir(self._aside):  # noqa: PTH208 - a descriptor
            os.unlink(name, dir_fd=self._aside)

    def tells_case(self) -> bool:
        """False on a disk where `A` and `a` are one file (macOS as it comes)."""
        with self._local_errors():
            return not self._exists(ASIDE.upper())

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def at_home(self, path: str) -> AtHome | None:
        """The regular file of that (checked) name below DEST, or None."""
        try:
            folder, name = self._folder_of(path, make=False)
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None
        return AtHome(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    @contextlib.contextmanager
    def aside(self) -> Iterator[Aside]:
        """A new file to write; gone at the end where it was not put into place."""
        self._count += 1
        name = str(self._count)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._local_errors():
            descriptor = os.open(name, flags, 0o666, dir_fd=self._aside)
            aside = Aside(descriptor, name)
            try:
                yield aside
            finally:
                os.close(descriptor)
                if not aside.placed:
                    os.unlink(name, dir_fd=self._aside)

    def put(self, aside: Aside, path: str, *, mtime_ns: int) -> None:
        """Puts a whole file into place under a (checked) name. Raises InTheWay where it cannot stand there."""
        os.utime(aside.descriptor, ns=(mtime_ns, mtime_ns))
        if aside.size >= _SYNC_FROM:
            os.fsync(aside.descriptor)
        try:
            folder, name = self._folder_of(path, make=True)
            os.rename(aside.name, name, src_dir_fd=self._aside, dst_dir_fd=folder)
            aside.placed = True
        except OSError as error:
            if error.errno in _UNNAMEABLE:
                raise InTheWay("this disk cannot hold such a name", clearable=False) from error
            if error.errno in _OCCUPIED:
                raise InTheWay("a link, a file or a folder stands in its way at home", clearable=True) from error
            raise

    def _folder_of(self, path: str, *, make: bool) -> tuple[int, str]:
        """The open folder that a name is in, and the name there. It stays open for the next name, often in it too."""
        parent, _, name = path.rpartition("/")
        held, held_path = self._folder
        if held < 0 or held_path != parent:
            opened = self._open_folder(parent, make=make)
            self._folder = (opened, parent)
            if held >= 0:
                os.close(held)
        return self._folder[0], name

    def _open_folder(self, path: str, *, make: bool) -> int:
        descriptor = os.dup(self._root)
        for folder in filter(None, path.split("/")):
            try:
                below = _open_below(descriptor, folder, make=make)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    @contextlib.contextmanager
    def _local_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GpuctlError(f"{self._path} cannot be written ({error.strerror})", None) from error


def _open_below(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
    return os.open(name, _FOLDER, dir_fd=folder)
