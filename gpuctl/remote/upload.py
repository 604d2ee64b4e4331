"""A run's workspace as one gzipped tar stream."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from gpuctl.core.errors import GpuctlError
from gpuctl.core.uploads import UploadContent

_IN_MEMORY = 16 * 1024 * 1024


def workspace_tar(content: UploadContent, *, on_missing: Callable[[str], None]) -> BinaryIO:
    """A gzipped tar of these files, links and empty folders, under their names in the workspace.

    The same files give the same bytes. A file that is gone meanwhile is left out, and `on_missing` hears its name.
    Starts at its beginning; whoever asked closes it.
    """
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed on open
    try:
        with (
            gzip.GzipFile(fileobj=spool, mode="wb", filename="", mtime=0, compresslevel=3) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in content.folders:
                _add_other(tar, name, tarfile.DIRTYPE)
            for name in sorted(content.files):
                if not _add_file(tar, content.files[name], name):
                    on_missing(name)
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


def _add_file(tar: tarfile.TarFile, source: str, name: str) -> bool:
    """False if the file is not there any more."""
    info = tarfile.TarInfo(name)
    try:
        with Path(source).open("rb") as file:
            status = os.fstat(file.fileno())
            info.size, info.mtime = status.st_size, int(status.st_mtime)
            info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            tar.addfile(info, file)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise GpuctlError(
            f"{source} cannot be read whole ({error.strerror or 'it changed meanwhile'})", "try again"
        ) from error
    return True
