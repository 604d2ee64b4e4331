"""DEST: the folder that outputs come home to. Nothing is written but beneath it, whatever lies in it already.

Each folder on the way is opened by itself, relative to the one above and without following a link, so that no link in
DEST leads a file out of it. A file is written aside and renamed into place whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from gpuctl.core.codec import parse
from gpuctl.core.errors import GpuctlError, UsageError
from gpuctl.core.outputs import ASIDE, MARK, AtHome, RunMark, printable
from gpuctl.remote.disk import closing, empty_cache, if_there, sync, sync_above

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SYNC_FROM = 1024 * 1024
"""Bytes: what is this large is written to the disk as it comes, so that not all of it is left for the end."""
_SYNCING_AT_ONCE = 8
"""A disk puts what is asked of it at once together: 1,000 small files take half a second and not eight."""
_UNNAMEABLE = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
_OCCUPIED = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY})


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MARK_FOLDER, _, _MARK_NAME = MARK.partition("/")
_LONGEST_MARK = 4096


class PathConflict(Exception):
    """A file that cannot be written below DEST, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class PartFile:
    """A file that is being written. `write` until it is whole. What is zero takes no room on the disk."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        self.size = 0
        self.placed = False

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if data and not data[0] and data.count(0) == len(data):
            os.lseek(self.descriptor, len(data), os.SEEK_CUR)
            return
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]


def read_mark(folder: Path) -> RunMark | None:
    """Which run's outputs lie in a folder, None where it does not say."""
    try:
        descriptor = os.open(folder / _MARK_FOLDER, _FOLDER)
    except OSError:
        return None
    try:
        return _read_mark(descriptor)
    finally:
        os.close(descriptor)


def _read_mark(folder: int) -> RunMark | None:
    try:
        descriptor = os.open(_MARK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError:
        return RunMark("unknown", "", own=False)
    try:
        values = parse(os.read(descriptor, _LONGEST_MARK))
        return RunMark(str(values["run"]), str(values["id"]), own=values["own"] is True)
    except (OSError, ValueError, KeyError, TypeError):
        return RunMark("unknown", "", own=False)
    finally:
        os.close(descriptor)


class Destination:
    """DEST, held by one pull at a time, and by one run for good where a mark says which.

    A context manager; what was half written is gone when it is left. Raises UsageError where another run's outputs lie.
    """

    def __init__(self, path: Path, mark: RunMark | None = None) -> None:
        self._path = path
        self._mark = mark
        self._root = -1
        self._aside = -1
        self._folder = (-1, "")
        self._count = 0
        self.own = True
        """False where the folder held something before this run's outputs came."""

    def __enter__(self) -> Destination:
        with self._local_errors():
            self._path.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._lock()
                self._claim()
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
            raise UsageError(f"another pull into {self._path} is in progress", "wait until it ends") from None
        except OSError:
            return  # a file system without locks (some network ones)

    def _claim(self) -> None:
        """Find that DEST is this run's, or make it so."""
        if self._mark is None:
            return
        empty = not set(os.listdir(self._root)) - {ASIDE}  # noqa: PTH208 - a descriptor
        try:
            folder = _open_below(self._root, _MARK_FOLDER, make=True)
        except OSError as error:
            raise UsageError(
                f"{self._path / _MARK_FOLDER} is not a folder, but the log goes into it", "pull into another folder"
            ) from error
        try:
            found = _read_mark(folder)
            if found is None:
                found = RunMark(self._mark.run, self._mark.id, own=empty)
                _write_mark(folder, found)
        finally:
            os.close(folder)
        if found.id != self._mark.id:
            raise UsageError(
                f"{self._path} holds the outputs of another run, {printable(found.run)}",
                f"name another folder: gpuctl pull {self._mark.run} {self._path / self._mark.run}",
            )
        self.own = found.own

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

    def stands(self, path: str) -> bool:
        """True where anything lies at that (checked) name."""
        try:
            folder, name = self._folder_of(path, make=False)
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            return error.errno != errno.ENOENT and error.errno not in _UNNAMEABLE
        return True

    def is_folder(self, path: str) -> bool:
        """True where a folder lies at that (checked) name, with no link on the way."""
        try:
            os.close(self._open_folder(path, make=False))
        except OSError:
            return False
        return True

    def link(self, path: str, text: str, *, replace: bool) -> bool:
        """Makes a link; False where it was there already. Raises InTheWay where it cannot stand there."""
        with self._local_errors(), _conflicts():
            folder, name = self._folder_of(path, make=True)
            with contextlib.suppress(OSError):
                if os.readlink(name, dir_fd=folder) == text:
                    return False
            _refuse_to_replace(folder, name, replace=replace)
            self._count += 1
            aside = str(self._count)
            os.symlink(text, aside, dir_fd=self._aside)
            os.rename(aside, name, src_dir_fd=self._aside, dst_dir_fd=folder)
        return True

    @contextlib.contextmanager
    def aside(self) -> Iterator[PartFile]:
        """A new file to write; gone at the end where it was not put into place."""
        self._count += 1
        name = str(self._count)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._local_errors():
            descriptor = os.open(name, flags, 0o666, dir_fd=self._aside)
            aside = PartFile(descriptor, name)
            try:
                yield aside
            finally:
                os.close(descriptor)
                if not aside.placed:
                    os.unlink(name, dir_fd=self._aside)

    def put(self, aside: PartFile, path: str, *, mtime_ns: int, replace: bool) -> None:
        """Puts a whole file into place under a (checked) name. Raises InTheWay where it cannot stand there."""
        os.ftruncate(aside.descriptor, aside.size)
        with contextlib.suppress(OSError, OverflowError):  # a time that this disk does not know
            os.utime(aside.descriptor, ns=(mtime_ns, mtime_ns))
        if aside.size >= _SYNC_FROM:
            os.fsync(aside.descriptor)
        with _conflicts():
            folder, name = self._folder_of(path, make=True)
            _refuse_to_replace(folder, name, replace=replace)
            os.rename(aside.name, name, src_dir_fd=self._aside, dst_dir_fd=folder)
            aside.placed = True

    def sync(self, paths: Collection[str]) -> None:
        """Has those (checked) names, what they hold and every folder on the way on the disk, whoever wrote them: a pull
        that was cut off may have. What is not there any more is left out. Raises GpuctlError where the disk fails."""
        folders = {""}
        for path in paths:
            while path := path.rpartition("/")[0]:
                if path in folders:
                    break
                folders.add(path)
        with self._local_errors(), ThreadPoolExecutor(_SYNCING_AT_ONCE, thread_name_prefix="sync") as pool:
            list(pool.map(self._sync_file, paths))
            list(pool.map(self._sync_folder, folders))
            list(pool.map(sync_above, Path(os.path.realpath(self._path)).parents))
            empty_cache(self._root)

    def _sync_file(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        with if_there(), closing(self._open_folder(parent, make=False)) as folder:
            if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                with closing(os.open(name, _FILE, dir_fd=folder)) as descriptor:
                    sync(descriptor)

    def _sync_folder(self, path: str) -> None:
        with if_there(), closing(self._open_folder(path, make=False)) as folder:
            sync(folder)

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
            if error.errno in _FULL:
                raise GpuctlError(
                    f"the disk that {self._path} is on is full: not everything was downloaded, and the host is kept",
                    "make room, or pull into a folder on another disk",
                ) from error
            raise GpuctlError(f"{self._path} cannot be written ({error.strerror})", None) from error


@contextlib.contextmanager
def _conflicts() -> Iterator[None]:
    """What keeps a name from being written, as InTheWay."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNNAMEABLE:
            raise PathConflict("this disk cannot store such a name") from error
        if error.errno in _OCCUPIED:
            raise PathConflict("a link, file or folder is in its way in the destination") from error
        raise


def _refuse_to_replace(folder: int, name: str, *, replace: bool) -> None:
    if replace:
        return
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise PathConflict("the destination has something there that this run did not download")


def _write_mark(folder: int, mark: RunMark) -> None:
    text = json.dumps({"run": mark.run, "id": mark.id, "own": mark.own}) + "\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    aside = f".{_MARK_NAME}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside, dir_fd=folder)
    descriptor = os.open(aside, flags, 0o666, dir_fd=folder)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.rename(aside, _MARK_NAME, src_dir_fd=folder, dst_dir_fd=folder)


def _open_below(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
    return os.open(name, _FOLDER, dir_fd=folder)
