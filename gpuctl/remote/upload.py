"""A run's workspace as one gzipped tar stream."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import sys
import tarfile
import tempfile
from collections.abc import Callable
from typing import BinaryIO, cast

from gpuctl.core.errors import GpuctlError
from gpuctl.core.uploads import IGNORE_FILE, MOST_BYTES, UploadContent

_IN_MEMORY = 16 * 1024 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What it takes for a file to be another thing now: nothing, below a file, a link, a socket."""


class _ShrankError(Exception):
    """A file became shorter while it was read, after its size had been written."""


def workspace_tar(content: UploadContent, *, on_missing: Callable[[str], None]) -> BinaryIO:
    """A gzipped tar of these files, links and empty folders, under their names in the workspace.

    The same files give the same bytes. A file that has grown since it was planned goes up as it is when it is opened;
    one that is gone meanwhile, shorter, no regular file any more, or behind a link that was put in its path is left
    out, and `on_missing` hears its name. Starts at its beginning; whoever asked closes it. Raises GpuctlError where
    a file cannot be read, or all of it has become more than `MOST_BYTES`.
    """
    gone: set[str] = set()
    while True:
        try:
            packed = _packed(content, gone)
        except _ShrankError as error:
            gone.add(str(error))
        else:
            for name in sorted(gone):
                on_missing(name)
            return packed


class ToldReader:
    """A file that is read from its beginning; `on_read` hears how many bytes of it were read, and of how many."""

    def __init__(self, file: BinaryIO, *, on_read: Callable[[int, int], None]) -> None:
        self._file, self._on_read = file, on_read
        self._of = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; nothing at the end."""
        data = self._file.read(size)
        if data:
            self._on_read(self._file.tell(), self._of)
        return data


def _packed(content: UploadContent, gone: set[str]) -> BinaryIO:
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed on open
    try:
        with (
            gzip.GzipFile(fileobj=spool, mode="wb", filename="", mtime=0, compresslevel=3) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in content.folders:
                _add_other(tar, name, tarfile.DIRTYPE)
            spare = MOST_BYTES - sum(content.sizes.values())
            for name in sorted(content.files.keys() - gone):
                grown = _add_file(tar, content.files[name], name, planned=content.sizes.get(name, 0), spare=spare)
                if grown is None:
                    gone.add(name)
                spare -= grown or 0
            for name in sorted(content.links):
                _add_other(tar, name, tarfile.SYMTYPE, to=content.links[name])
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return cast("BinaryIO", spool)


def _add_other(tar: tarfile.TarFile, name: str, kind: bytes, *, to: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, to, 0o755
    tar.addfile(info)


def _add_file(tar: tarfile.TarFile, source: str, name: str, *, planned: int, spare: int) -> int | None:
    """By how many bytes the file has grown; None if there is no such file any more.

    Raises _ShrankError, and GpuctlError where it has grown by more than `spare`.
    """
    try:
        descriptor = _open(source)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise _unreadable(source, error) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size < planned:
            return None
        if status.st_size - planned > spare:
            raise GpuctlError(
                f"{source} has grown to {status.st_size / 1e9:.1f} GB since the plan was made, and the upload to more "
                f"than {MOST_BYTES / 1e9:.1f} GB",
                f"leave it out with {IGNORE_FILE}, and have the job download it",
            )
        info = tarfile.TarInfo(name)
        info.size, info.mtime = status.st_size, int(status.st_mtime)
        info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        try:
            tar.addfile(info, file)
        except OSError as error:
            if os.fstat(descriptor).st_size < info.size:
                raise _ShrankError(name) from error
            raise _unreadable(source, error) from error
    return info.size - planned


def _open(source: str) -> int:
    """A descriptor of that file, whose path has no link in it: a folder that became one since leads elsewhere."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if sys.platform == "darwin":
        return os.open(source, flags | os.O_NOFOLLOW_ANY)
    folder = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        *folders, name = source.strip("/").split("/")
        for part in folders:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _unreadable(source: str, error: OSError) -> GpuctlError:
    return GpuctlError(f"{source} could not be read ({error.strerror or 'it changed while being read'})", "try again")
