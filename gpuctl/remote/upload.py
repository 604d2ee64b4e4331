"""A run's workspace as one gzipped tar stream: what goes along from the laptop, and what never does."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from gpuctl.core.errors import GpuctlError, UsageError

MOST_BYTES = 1024**3
_IN_MEMORY = 16 * 1024 * 1024
_SKIPPED_FOLDERS = frozenset(
    {
        *{".git", ".hg", ".svn", "__pycache__", ".venv", ".tox", ".nox", "node_modules"},
        *{".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints", ".hypothesis"},
    }
)
_SKIPPED_ENDINGS = (".pyc", ".pyo")
_OUTPUTS = "outputs"


def workspace_tar(entries: Iterable[tuple[Path, str]]) -> BinaryIO:
    """A gzipped tar of these files and folders, each under its name in the workspace (`""`: the workspace itself).

    Links are followed. Below a folder version control, virtualenvs, caches and compiled Python stay behind, and its own
    `outputs/`; an entry named for itself always goes. Where two entries give one name, the later wins. The same files
    give the same bytes. Starts at its beginning; whoever asked closes it. Raises UsageError for an entry that is not
    there, a name outside the workspace, or more than 1 GiB in all.
    """
    files: dict[str, Path] = {}
    for source, name in entries:
        files.update(_collect(source, _safe_name(name)))
    _refuse_too_much(files)
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed on open
    try:
        with (
            gzip.GzipFile(fileobj=spool, mode="wb", filename="", mtime=0, compresslevel=3) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in sorted(files):
                _add(tar, files[name], name)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return cast("BinaryIO", spool)


def _safe_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UsageError(f"{name!r} is no name in a workspace", "give a relative one, without `..`")
    return "" if str(path) == "." else str(path)


def _collect(source: Path, name: str) -> Iterator[tuple[str, Path]]:
    if source.is_dir():
        yield from _walk(source, name, above=frozenset())
    elif source.is_file():
        yield name or source.name, source
    elif source.exists():
        raise UsageError(f"{source} is neither a file nor a folder", None)
    else:
        raise UsageError(f"there is no {source}", None)


def _walk(folder: Path, name: str, *, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    """The files below a folder; `above` holds the folders on the way here, so that a link to one of them ends."""
    status = folder.stat()
    here = above | {(status.st_dev, status.st_ino)}
    for entry in sorted(folder.iterdir()):
        below = f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir():
            inner = entry.stat()
            if (inner.st_dev, inner.st_ino) not in here and not _stays(entry, top=not above):
                yield from _walk(entry, below, above=here)
        elif entry.is_file() and not entry.name.endswith(_SKIPPED_ENDINGS):
            yield below, entry


def _stays(folder: Path, *, top: bool) -> bool:
    if folder.name in _SKIPPED_FOLDERS or (top and folder.name == _OUTPUTS):
        return True
    return (folder / "pyvenv.cfg").is_file()


def _refuse_too_much(files: dict[str, Path]) -> None:
    sizes = {path: path.stat().st_size for path in files.values()}
    total = sum(sizes.values())
    if total > MOST_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise UsageError(
            f"what would go to the host is {total / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.1f}; "
            f"the largest file is {largest} ({sizes[largest] / 1e9:.1f} GB)",
            "leave it out of the folder, and let the job fetch it",
        )


def _add(tar: tarfile.TarFile, source: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    try:
        with source.open("rb") as file:
            status = os.fstat(file.fileno())
            info.size, info.mtime = status.st_size, int(status.st_mtime)
            info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            tar.addfile(info, file)
    except OSError as error:
        raise GpuctlError(
            f"{source} cannot be read whole ({error.strerror or 'it changed meanwhile'})", "try again"
        ) from error
