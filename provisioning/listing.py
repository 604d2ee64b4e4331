"""What the command wrote in the workspace: each file of it comes home, or is told as left, with its size and why.

A path from a workspace is hostile: it is walked by descriptor, no link is followed, nothing outside is ever opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Optional, Union

from provisioning.paths import Paths, read_json
from provisioning.patterns import Patterns
from provisioning.protocol import PayloadError

LOG, METRICS = "gpuctl/log", "gpuctl/metrics.jsonl"
OWN_NAMES = frozenset((LOG, METRICS, "gpuctl/run.json"))
"""What gpuctl itself writes where outputs come home."""
LARGEST_UNASKED = 2_000_000_000
"""Bytes: what is larger, and neither a checkpoint nor among the named outputs, is asked about."""
MOST_UNASKED = 100_000
"""Files of one folder, likewise."""
_DEEPEST = 64
_REMADE = frozenset(
    (
        *("__pycache__", ".cache", ".ipynb_checkpoints", "node_modules", ".git", ".hg", ".svn", ".bzr", ".jj"),
        *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".tox", ".nox", ".eggs"),
    )
)
_REMADE_FILES = (".pyc", ".pyo", ".DS_Store")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 18
_NO_NAME = "\0" * 300
"""No file is called so: a pattern that matches it matches whatever lies beside it."""


@dataclass(frozen=True)
class OutputFile:
    """A regular file below the workspace. `changed_ns`: its last change of any kind, which no program can set."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int
    changed_ns: int


@dataclass(frozen=True)
class Link:
    """A link to a file or folder (`to`, no link on its way) of the workspace."""

    path: str
    to: str


@dataclass(frozen=True)
class Left:
    """What the command wrote and what does not come: how much it is (None: who knows), of what kind, and why.

    With `files` 0 it holds nothing that could be lost: a pipe, a link to what somebody else has written.
    """

    path: str
    kind: str
    why: str
    files: Optional[int] = 0
    bytes: int = 0


Entry = Union[OutputFile, Link, Left]


@dataclass(frozen=True)
class Wish:
    """What the job and whoever pulls want home. `named` None: all that the command wrote.

    `of_job` is what the job names, which comes in any case: as large as it is, and though it is made again by itself.
    """

    named: Optional[Patterns]
    of_job: Patterns
    exclude: Patterns
    checkpoints: Patterns
    largest: Optional[int]


def read_wish(paths: Paths, request: dict[str, Any]) -> Wish:
    """The job's words, as `provision` brought them, and those of a `manifest` request, which may ask for more."""
    outputs = (read_json(paths.spec) or {}).get("outputs") or {}
    everything = request.get("everything") is True
    of_job = Patterns(outputs.get("paths") or [])
    largest = request.get("max_size", LARGEST_UNASKED)
    return Wish(
        named=None if everything or outputs.get("paths") is None else of_job,
        of_job=of_job,
        exclude=Patterns([] if everything else outputs.get("exclude") or []),
        checkpoints=Patterns(outputs.get("checkpoints") or []),
        largest=largest if isinstance(largest, int) else None,
    )


def check_path(path: str) -> PurePosixPath:
    """A path that stays below where it starts, by its text alone. Raises PayloadError."""
    pure = PurePosixPath(path)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise PayloadError(f"{path!r} is not a path inside the workspace")
    return pure


def open_beneath(root: Path, path: str, flags: int) -> int:
    """Open `root/path` with no link followed anywhere below `root`. Raises OSError, PayloadError."""
    *folders, name = check_path(path).parts
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            deeper = os.open(folder, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def output_file(path: str, status: os.stat_result) -> OutputFile:
    """A file as its status tells of it."""
    return OutputFile(
        path=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        device=status.st_dev,
        changed_ns=status.st_ctime_ns,
    )


class Code:
    """What of the workspace came from the laptop, and is as it came."""

    def __init__(self, paths: Paths) -> None:
        self._work = paths.work
        self._known = read_json(paths.code) or {}
        try:
            self._written_ns = paths.code.stat().st_mtime_ns
        except OSError:
            self._written_ns = 0

    def has_link(self, path: str, status: os.stat_result) -> bool:
        """True where that link is one that the laptop brought, as it came."""
        return self._known.get(path) == [status.st_size, status.st_mtime_ns]

    def unchanged(self, file: OutputFile) -> bool:
        """True where that file is what the laptop brought. Its time may have been set back: then its content tells."""
        known = self._known.get(file.path)
        if known is None or known[:2] != [file.size, file.mtime_ns]:
            return False
        return len(known) < 3 or file.changed_ns <= self._written_ns or _sha256(self._work, file.path) == known[2]


def _sha256(root: Path, path: str) -> Optional[str]:
    digest = hashlib.sha256()
    try:
        with open(open_beneath(root, path, os.O_RDONLY), "rb") as file:
            while data := file.read(_CHUNK):
                digest.update(data)
    except OSError:
        return None
    return digest.hexdigest()


class Listing:
    """The workspace's entries. Once they are walked: the patterns that match nothing, where links lead outside."""

    def __init__(self, paths: Paths, wish: Wish) -> None:
        self._work = paths.work
        self._real = os.path.realpath(paths.work)
        self._wish = wish
        self._code = Code(paths)
        self._named = wish.of_job
        self.outside: dict[str, str] = {}
        """Links that lead out of the workspace, and where to."""

    def missing(self) -> list[str]:
        """The named paths that match nothing; none where all is wanted."""
        if self._wish.named is None:
            return []
        return [self._named.patterns[index] for index in sorted(self._named.unmatched)]

    def __iter__(self) -> Iterator[Entry]:
        try:
            root = os.open(self._work, _FOLDER)
        except OSError:
            return
        try:
            names, error = _names(root)
            if error is not None:
                yield Left(".", "unreadable", error, files=None)
            for name in names:
                yield from self._sorted_out(name, self._entries(root, name, name, remade=False))
        finally:
            os.close(root)

    def _sorted_out(self, top: str, entries: Iterator[Entry]) -> Iterator[Entry]:
        """What is below one name of the workspace: what comes, and in one word what is left of it."""
        asked: list[OutputFile] = []
        unasked, unnamed = _Sum(), _Sum()
        for entry in entries:
            if not isinstance(entry, OutputFile) or self._named.match(entry.path):
                yield entry
            elif self._wish.named is not None:
                unnamed.add(entry)
            elif entry.path.startswith("outputs/") or self._wish.checkpoints.match(entry.path):
                yield entry
            elif self._wish.largest is not None and entry.size > self._wish.largest:
                yield Left(entry.path, "size", self._larger(), files=1, bytes=entry.size)
            else:
                unasked.add(entry)
                asked.append(entry)
                if self._too_much(unasked):
                    asked.clear()
        if self._too_much(unasked):
            yield Left(top + "/", "size", self._larger(), files=unasked.files, bytes=unasked.bytes)
        else:
            yield from asked
        if unnamed.files:
            path = top + "/" if os.path.isdir(self._work / top) else top
            why = "not among the job's [outputs] paths"
            yield Left(path, "unnamed", why, files=unnamed.files, bytes=unnamed.bytes)

    def _too_much(self, unasked: _Sum) -> bool:
        largest = self._wish.largest
        return largest is not None and (unasked.bytes > largest or unasked.files > MOST_UNASKED)

    def _larger(self) -> str:
        return f"more than {(self._wish.largest or 0) / 1e9:.3g} GB, and not a checkpoint"

    def _entries(self, above: int, path: str, name: str, *, remade: bool) -> Iterator[Entry]:
        try:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            return  # it went while we looked
        except OSError as error:
            yield Left(path, "unreadable", f"cannot be inspected: {error.strerror}", files=None)
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._descend(above, path, name, remade=remade)
            return
        named = self._named.match(path)
        if self._wish.exclude.match(path) or ((remade or name.endswith(_REMADE_FILES)) and not named):
            return
        if stat.S_ISREG(status.st_mode):
            yield from self._file(above, name, output_file(path, status), status)
        elif stat.S_ISLNK(status.st_mode):
            if not self._code.has_link(path, status):
                yield self._link(above, path, name)
        else:
            yield Left(path, "special", "not a regular file: it holds no data")

    def _file(self, above: int, name: str, file: OutputFile, status: os.stat_result) -> Iterator[Entry]:
        if self._code.unchanged(file):
            return
        if file.path in OWN_NAMES:
            yield Left(file.path, "reserved", "the name is reserved for gpuctl", files=1, bytes=file.size)
        elif not _readable(above, name, status):
            why = f"cannot be read: its mode is {stat.S_IMODE(status.st_mode):03o}"
            yield Left(file.path, "unreadable", why, files=1, bytes=file.size)
        else:
            yield file

    def _descend(self, above: int, path: str, name: str, *, remade: bool) -> Iterator[Entry]:
        remade = remade or _is_remade(above, name)
        if (remade and name not in self._named.names) or self._wish.exclude.match(f"{path}/{_NO_NAME}"):
            return
        if path.count("/") >= _DEEPEST:
            yield Left(path + "/", "deep", f"deeper than {_DEEPEST} folders", files=None)
            return
        try:
            folder = os.open(name, _FOLDER, dir_fd=above)
        except OSError as error:
            yield Left(path + "/", "unreadable", f"cannot be opened: {error.strerror}", files=None)
            return
        try:
            names, why = _names(folder)
            if why is not None:
                yield Left(path + "/", "unreadable", why, files=None)
            for below in names:
                yield from self._entries(folder, f"{path}/{below}", below, remade=remade)
        finally:
            os.close(folder)

    def _link(self, above: int, path: str, name: str) -> Entry:
        try:
            target = os.readlink(name, dir_fd=above)
        except OSError:
            target = "?"
        real = os.path.realpath(self._work / path)
        if real != self._real and not real.startswith(self._real + os.sep):
            self.outside[path] = real
            return Left(path, "link", f"a link to {target!r}, outside the workspace")
        to = os.path.relpath(real, self._real)
        try:
            status = os.lstat(real)
        except OSError:
            return Left(path, "link", f"a link to {target!r}, which does not exist")
        regular = stat.S_ISREG(status.st_mode)
        if (regular or stat.S_ISDIR(status.st_mode)) and not _REMADE.isdisjoint(PurePosixPath(to).parts):
            files, size = (1, status.st_size) if regular else (None, 0)
            return Left(path, "link", f"a link to {target!r}, which is not downloaded", files=files, bytes=size)
        if to == "." or not (regular or stat.S_ISDIR(status.st_mode)):
            return Left(path, "link", f"a link to {target!r}")
        return Link(path, to)


class _Sum:
    """So many files, of so many bytes."""

    def __init__(self) -> None:
        self.files = self.bytes = 0

    def add(self, file: OutputFile) -> None:
        self.files, self.bytes = self.files + 1, self.bytes + file.size


def _names(folder: int) -> tuple[list[str], Optional[str]]:
    """The names in a folder, and why they cannot be told."""
    try:
        return sorted(os.listdir(folder)), None
    except OSError as error:
        return [], f"cannot be listed: {error.strerror}"


def _readable(above: int, name: str, status: os.stat_result) -> bool:
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRUSR:
        return True
    return os.access(name, os.R_OK, dir_fd=above)


def _is_remade(above: int, name: str) -> bool:
    """A folder that programs make again by themselves: version control's own, caches, what was installed."""
    if name in _REMADE or name.endswith(".egg-info"):
        return True
    for inside in ("pyvenv.cfg", "conda-meta"):
        try:
            os.stat(f"{name}/{inside}", dir_fd=above, follow_symlinks=False)
        except OSError:
            continue
        return True
    return False
