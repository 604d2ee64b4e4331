"""Which processes belong to a host, and their end.

A process belongs to a host when it descends from one of the host's own, or carries the host's mark in its
environment. The descendants are whole where orphans are adopted (Linux's child subreaper); elsewhere the mark finds
those that were orphaned. Linux is asked through /proc, any other system through `ps`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpuctl.embedded_cloud.host.environment import MARK_VARIABLE

_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_END_WITHIN_S = 10.0
_LOOKS_TO_STOP = 200


@dataclass(frozen=True)
class Process:
    """One line of the process table. `state` is `ps`'s letter: Z is dead and not yet reaped."""

    pid: int
    parent: int
    state: str


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants orphan, where the system can (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> dict[int, int]:
    """Collects every child that has ended: exit code by pid, negative for a signal."""
    ended = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def end_all(mark: str, *, root: int | None) -> bool:
    """Ends every process that belongs here but this one, until a look finds none. False where some would not end.

    They are stopped before any is killed: what is stopped cannot fork, so a loop that forks is caught whole. `root`
    is as in `belonging`; with it, this process's ended children are reaped.
    """
    end = time.monotonic() + _END_WITHIN_S
    untouchable: set[int] = set()
    while time.monotonic() < end:
        stopped = stop_all(mark, root=root, untouchable=untouchable)
        if not stopped:
            return not untouchable
        _signal_all(stopped, signal.SIGKILL)
        _await_end(stopped, until=min(end, time.monotonic() + 1.0), reaping=root is not None)
    return False


def stop_all(mark: str, *, root: int | None, untouchable: set[int] | None = None) -> set[int]:
    """Stops every process that belongs here but this one, until a look finds no other; answers which were stopped.

    `untouchable` are those that this user may not signal: they are passed over, and what is found of them is added.
    """
    refused = set() if untouchable is None else untouchable
    stopped: set[int] = set()
    for _ in range(_LOOKS_TO_STOP):
        new = belonging(mark, root=root) - stopped - refused
        if not new:
            break
        refused |= _signal_all(new, signal.SIGSTOP)
        stopped |= new
    return stopped - refused


def belonging(mark: str, *, root: int | None) -> set[int]:
    """The pids of `root`'s descendants, of the mark's carriers and of theirs: living ones, and never this process."""
    looked = _look(mark)
    children: dict[int, list[int]] = {}
    for process, _ in looked:
        children.setdefault(process.parent, []).append(process.pid)
    own = os.getpid()
    found: set[int] = set()
    todo = [process.pid for process, carries in looked if carries and process.pid != own]
    todo += children.get(root, []) if root is not None else []
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    living = {process.pid for process, _ in looked if process.state not in "ZX"}
    return (found & living) - {own}


def parse_stat(text: bytes) -> Process | None:
    """One `/proc/PID/stat` (proc(5)); the name in it may hold any byte, parentheses too."""
    before, _, after = text.rpartition(b")")
    words = after.split()
    try:
        return Process(
            pid=int(before.split(b" ", 1)[0]), parent=int(words[1]), state=words[0].decode("ascii", "replace")
        )
    except (IndexError, ValueError):
        return None


def parse_ps(text: str) -> list[tuple[Process, str]]:
    """What `ps -axEww -o pid=,ppid=,stat=,command=` prints: each process, with its command and environment."""
    found = []
    for line in text.splitlines():
        words = line.split(None, 3)
        if len(words) >= 3 and words[0].isdigit() and words[1].isdigit():
            process = Process(pid=int(words[0]), parent=int(words[1]), state=words[2][:1])
            found.append((process, words[3] if len(words) > 3 else ""))
    return found


def _look(mark: str) -> list[tuple[Process, bool]]:
    """Every process that can be seen, and whether it carries the mark."""
    wanted = f"{MARK_VARIABLE}={mark}"
    if sys.platform != "linux":
        return [(process, wanted in text.split()) for process, text in _ps()]
    looked = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                process = parse_stat((folder / "stat").read_bytes())
                if process:
                    looked.append((process, wanted.encode() in _environment(folder)))
    return looked


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _ps() -> list[tuple[Process, str]]:
    """What `ps` lists, without itself."""
    command = ["ps", "-axEww", "-o", "pid=,ppid=,stat=,command="]
    with subprocess.Popen(command, stdout=subprocess.PIPE, errors="replace", text=True) as ps:
        text = ps.communicate()[0]
    return [(process, words) for process, words in parse_ps(text) if process.pid != ps.pid]


def _signal_all(pids: Iterable[int], number: signal.Signals) -> set[int]:
    """Signals each; answers those that this user may not signal."""
    refused = set()
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.add(pid)
    return refused


def _await_end(pids: set[int], *, until: float, reaping: bool) -> None:
    """Waits until none of `pids` is there any more."""
    left = set(pids)
    while left and time.monotonic() < until:
        if reaping:
            reap()
        left = {pid for pid in left if _lives(pid)}
        if left:
            time.sleep(0.002)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
