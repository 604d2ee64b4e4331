"""The outputs of a run: which files there are, and which of them are whole.

A path from a workspace is hostile: it is walked by descriptor, no link is followed, nothing outside is ever opened.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Optional, Union

from provisioning.places import Places, read_json, write_json
from provisioning.protocol import Channel, PayloadError
from provisioning.state import RunState, describe, read_state

LOG, METRICS = "gpuctl/log", "gpuctl/metrics.jsonl"
QUIET_NS = 2_000_000_000
HELD_QUIET_NS = 30_000_000_000
LARGEST_UNASKED = 2 << 30
_DEEPEST = 64
_NOT_OUTPUTS = frozenset(
    (
        *("data", "wandb", "venv", ".venv", "node_modules", "__pycache__", ".cache", ".ipynb_checkpoints"),
        *(".git", ".hg", ".svn", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".tox", ".nox", ".eggs"),
    )
)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
class Skipped:
    """What is not listed, and why."""

    path: str
    why: str


Entry = Union[OutputFile, Skipped]


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


def list_outputs(places: Places) -> Iterator[Entry]:
    """The outputs, as the job names them; where it names none, `outputs/` or whatever the command wrote."""
    spec = read_json(places.spec) or {}
    named = (spec.get("outputs") or {}).get("paths")
    if named:
        for path in sorted(set(named)):
            if not any(path != other and PurePosixPath(other) in PurePosixPath(path).parents for other in named):
                yield from _named(places.work, path)
        return
    entries = _named(places.work, "outputs")
    first = next(entries, None)
    if first is None:
        yield from _unasked(places)
        return
    yield first
    yield from entries


def _named(work: Path, path: str) -> Iterator[Entry]:
    pure = check_path(path)
    parent, name = str(pure.parent), pure.name
    try:
        above = os.open(work, _FOLDER) if parent == "." else open_beneath(work, parent, _FOLDER)
    except OSError:
        return
    try:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        yield from _entry(above, str(pure), name, status, _everything)
    except FileNotFoundError:
        return
    finally:
        os.close(above)


def _unasked(places: Places) -> Iterator[Entry]:
    """What the command wrote: what did not come with the code, or has changed since."""
    code = read_json(places.code) or {}
    try:
        root = os.open(places.work, _FOLDER)
    except OSError:
        return
    try:
        for entry in _walk(root, "", _worth_a_look):
            if isinstance(entry, Skipped):
                if entry.path not in code:
                    yield entry
            elif code.get(entry.path) != [entry.size, entry.mtime_ns]:
                if entry.size > LARGEST_UNASKED:
                    yield Skipped(
                        entry.path, f"larger than 2 GiB ({entry.size} bytes), and not among the job's outputs"
                    )
                else:
                    yield entry
    finally:
        os.close(root)


def _everything(descriptor: int, name: str) -> bool:
    del descriptor, name
    return True


def _worth_a_look(descriptor: int, name: str) -> bool:
    if name in _NOT_OUTPUTS or name.endswith(".egg-info"):
        return False
    try:
        os.stat(f"{name}/pyvenv.cfg", dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        return True
    return False


def _walk(folder: int, prefix: str, wanted: Any) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scan:
            names = sorted(entry.name for entry in scan)
    except OSError as error:
        yield Skipped(prefix.rstrip("/") or ".", f"cannot be listed: {error.strerror}")
        return
    for name in names:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            continue  # it went while we looked
        yield from _entry(folder, prefix + name, name, status, wanted)


def _entry(above: int, path: str, name: str, status: os.stat_result, wanted: Any) -> Iterator[Entry]:
    if path in (LOG, METRICS):
        yield Skipped(path, "the name is gpuctl's own")
    elif stat.S_ISREG(status.st_mode):
        yield output_file(path, status)
    elif stat.S_ISDIR(status.st_mode):
        if wanted(above, name):
            yield from _descend(above, path, name, wanted)
    elif stat.S_ISLNK(status.st_mode):
        yield Skipped(path, _link(above, name))
    else:
        yield Skipped(path, "not a regular file")


def _descend(above: int, path: str, name: str, wanted: Any) -> Iterator[Entry]:
    if path.count("/") >= _DEEPEST:
        yield Skipped(path, f"deeper than {_DEEPEST} folders")
        return
    try:
        folder = os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        yield Skipped(path, f"cannot be opened: {error.strerror}")
        return
    try:
        yield from _walk(folder, path + "/", wanted)
    finally:
        os.close(folder)


def _link(above: int, name: str) -> str:
    try:
        return f"a link, to {os.readlink(name, dir_fd=above)!r}"
    except OSError:
        return "a link"


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


class Settled:
    """Which files are whole: all once training has ended, else those that nothing has touched for a while.

    Two seconds; thirty for a file that training still has open to write in place, since a slow writer pauses. What is
    open to append to (a log) is good at any length.

    The clock and what is open are looked at once, before any file is: whatever happens to a file after that makes it
    young, and whoever began to write it before that and has not ended is seen to have it open.
    """

    def __init__(self, run: RunState, places: Places) -> None:
        self._over = run.over
        self._now_ns = time.time_ns()
        group = (read_json(places.state) or {}).get("pgid")
        self._held = frozenset() if self._over or group is None else _held_open(group)

    def __call__(self, file: OutputFile) -> bool:
        """True where the file is whole as far as can be told from outside."""
        if self._over:
            return True
        quiet_ns = self._now_ns - file.changed_ns
        return quiet_ns >= (HELD_QUIET_NS if (file.device, file.inode) in self._held else QUIET_NS)


def _held_open(group: int, proc: Path = Path("/proc")) -> frozenset[tuple[int, int]]:
    """(device, inode) of what the group's processes have open to write in place; nothing where there is no /proc."""
    held = set()
    try:
        pids = [name for name in os.listdir(proc) if name.isdigit() and _group_of(proc / name) == group]
    except OSError:
        return frozenset()
    for pid in pids:
        try:
            for descriptor in os.listdir(proc / pid / "fd"):
                flags = _open_flags(proc / pid / "fdinfo" / descriptor)
                if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND:
                    status = os.stat(proc / pid / "fd" / descriptor)
                    held.add((status.st_dev, status.st_ino))
        except OSError:
            continue  # it ended while we looked
    return frozenset(held)


def _group_of(process: Path) -> Optional[int]:
    try:
        # After the name in parentheses, which may hold anything: state, parent, group.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[2])
    except (OSError, ValueError, IndexError):
        return None


def _open_flags(fdinfo: Path) -> int:
    for line in fdinfo.read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    return os.O_RDONLY


def manifest_verb(places: Places, channel: Channel) -> int:
    """List the outputs."""
    channel.read_request()
    # Both before the listing: what training writes after this look may be missing from it.
    run, state = read_state(places), describe(places)
    settled = Settled(run, places)
    files = size = 0
    for entry in itertools.chain(_own_files(places), list_outputs(places)):
        if isinstance(entry, Skipped):
            channel.queue("skipped", path=entry.path, why=entry.why)
            continue
        files, size = files + 1, size + entry.size
        complete = entry.path in (LOG, METRICS) or settled(entry)
        channel.queue(
            "file", path=entry.path, size=entry.size, mtime_ns=entry.mtime_ns, inode=entry.inode, complete=complete
        )
    write_json(places.listed, {"over": run.over})
    channel.emit("manifest", files=files, bytes=size, state=state)
    return 0


def _own_files(places: Places) -> Iterator[OutputFile]:
    """The log and the metrics, by the names that they have among the outputs."""
    for name, path in ((LOG, places.log), (METRICS, places.metrics)):
        try:
            yield output_file(name, path.stat())
        except OSError:
            continue
