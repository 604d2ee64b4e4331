"""The processes of this host, as /proc tells of them: what descends from the command, and what may still write.

Where there is no /proc nothing is known, and nothing is told.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioning.paths import Paths, read_json
from provisioning.state import supervisor_lives

_PROC = Path("/proc")
_ADOPT = 36
"""PR_SET_CHILD_SUBREAPER, prctl(2)."""
_LONGEST_WORDS = 60
_MOST_NAMED = 3
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Process:
    """One that lives."""

    pid: int
    name: str
    parent: int
    group: int

    def __str__(self) -> str:
        return f"process {self.pid} ({words_of(self)})"


@dataclass(frozen=True)
class HeldFile:
    """A regular file, by what tells it from others, that a process has open to write."""

    pid: int
    path: str
    identity: tuple[int, int]
    appends: bool


def adopt_orphans() -> None:
    """From here on what descends from this process stays below it, whoever of them ends: a daemon's parent is this."""
    with suppress(Exception):  # not Linux, or a Python without ctypes: they are init's, as ever
        import ctypes

        ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)


def reap_orphans(own: Collection[int] = ()) -> None:
    """Take note of the ends of adopted processes; of this process's own children others do."""
    while hasattr(os, "waitid"):
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, 0)


def living() -> dict[int, Process]:
    """Every process by its pid, zombies apart."""
    found = {}
    for pid in _pids():
        try:
            head, _, rest = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")
            state, parent, group = rest.split()[:3]
            if state not in (b"Z", b"X"):
                name = head.partition(b"(")[2].decode("utf-8", "replace")
                found[pid] = Process(pid, name, int(parent), int(group))
        except (OSError, ValueError):
            continue  # it ended while we looked
    return found


def descendants(root: int, among: Mapping[int, Process]) -> list[Process]:
    """All that descend from a process, itself apart."""
    below: dict[int, list[Process]] = {}
    for process in among.values():
        below.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        children = below.pop(waiting.pop(), [])
        found += children
        waiting += [child.pid for child in children]
    return found


def still_at_work(paths: Paths, held: Collection[HeldFile]) -> list[Process]:
    """Once the command has ended: what goes on of it, and whoever else writes a file of the workspace.

    Of what the command has started, a daemon that has left its folder for `/`, as daemons do, is none of it. Of several
    that descend from each other, the first.
    """
    table = living()
    began = read_json(paths.state) or {}
    supervisor = began.get("pid")
    mine = {process.pid for process in _started_by(paths, supervisor, table) if not is_daemon(process)}
    work = os.path.realpath(paths.work) + os.sep
    mine.update(one.pid for one in held if one.path.startswith(work))
    return topmost([table[pid] for pid in sorted(mine - {os.getpid(), supervisor}) if pid in table])


def topmost(processes: Collection[Process]) -> list[Process]:
    """Those whose parent is not among them."""
    pids = {process.pid for process in processes}
    return [process for process in processes if process.parent not in pids]


def is_daemon(process: Process) -> bool:
    """True where it works in no folder. Another user's (sudo's) may work anywhere."""
    try:
        return os.readlink(_PROC / str(process.pid) / "cwd") == "/"
    except PermissionError:
        return False
    except OSError:
        return True  # it is gone


def _started_by(paths: Paths, supervisor: object, table: Mapping[int, Process]) -> list[Process]:
    """By descent while the supervisor lives; by the environment that the command was given where it does not."""
    mark = b"GPUCTL_METRICS=" + os.fsencode(paths.metrics)
    found = [process for process in table.values() if mark in _environment(process.pid)]
    if isinstance(supervisor, int) and supervisor_lives(paths):
        found += descendants(supervisor, table)
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def held_files() -> list[HeldFile]:
    """What this user's processes, but for this one, have open to write."""
    return [held for pid in _pids() if pid != os.getpid() for held in _held_by(pid)]


def _held_by(pid: int) -> Iterator[HeldFile]:
    process = _PROC / str(pid)
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        return  # another user's, or it ended while we looked
    for descriptor in descriptors:
        try:
            status = os.stat(process / "fd" / descriptor)
            if not stat.S_ISREG(status.st_mode) or not status.st_nlink:
                continue
            flags = _open_flags(process / "fdinfo" / descriptor)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                path = os.readlink(process / "fd" / descriptor)
                yield HeldFile(pid, path, (status.st_dev, status.st_ino), bool(flags & os.O_APPEND))
        except OSError:
            continue


def _open_flags(fdinfo: Path) -> int:
    for line in fdinfo.read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    return os.O_RDONLY


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []


def named(processes: Collection[Process]) -> str:
    """A few of them by pid and words, for people."""
    more = f" and {len(processes) - _MOST_NAMED} more" if len(processes) > _MOST_NAMED else ""
    return ", ".join(str(process) for process in list(processes)[:_MOST_NAMED]) + more


def words_of(process: Process) -> str:
    """What a process was started with, for people: on one line, and not long."""
    words: list[str] = []
    with suppress(OSError):
        raw = (_PROC / str(process.pid) / "cmdline").read_bytes().rstrip(b"\0")
        words = raw.decode("utf-8", "replace").split("\0")
    first, *others = words or [process.name]
    text = _UNSEEN.sub(" ", " ".join([os.path.basename(first) or process.name, *others]))
    return text if len(text) <= _LONGEST_WORDS else text[: _LONGEST_WORDS - 1] + "…"
