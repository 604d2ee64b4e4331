"""Which processes belong to a host, and their end.

A process belongs to a host when it descends from one of the host's own, or carries the host's mark in its
environment. The descendants are whole where orphans are adopted (Linux's child subreaper); elsewhere the mark finds
those that were orphaned.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from gpuctl.embedded_cloud.host.environment import MARK_VARIABLE

_PR_SET_CHILD_SUBREAPER = 36
_END_WITHIN_S = 10.0
_LOOKS_TO_STOP = 200


@dataclass(frozen=True)
class Process:
    """One line of the process table: whether it `lives` (is not dead and unreaped), and carries a host's mark."""

    pid: int
    parent: int
    lives: bool
    marked: bool


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
        signal_all(stopped, signal.SIGKILL)
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
        refused |= signal_all(new, signal.SIGSTOP)
        stopped |= new
    return stopped - refused


def belonging(mark: str, *, root: int | None) -> set[int]:
    """The pids of `root`'s descendants, of the mark's carriers and of theirs: living ones, and never this process."""
    looked = _look(mark)
    children: dict[int, list[int]] = {}
    for process in looked:
        children.setdefault(process.parent, []).append(process.pid)
    own = os.getpid()
    found: set[int] = set()
    todo = [process.pid for process in looked if process.marked and process.pid != own]
    todo += children.get(root, []) if root is not None else []
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    living = {process.pid for process in looked if process.lives}
    return (found & living) - {own}


def _look(mark: str) -> list[Process]:
    """Every process that can be seen."""
    looked = []
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            with process.oneshot():
                lives = process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
                looked.append(Process(pid, process.ppid(), lives, _carries(process, mark)))
    return looked


def _carries(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error, OSError):  # another user's, or one that is ending: its children count all the same
        return process.environ().get(MARK_VARIABLE) == mark
    return False


def signal_all(pids: Iterable[int], number: signal.Signals) -> set[int]:
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
        left = set(filter(psutil.pid_exists, left))
        if left:
            time.sleep(0.002)
