"""The guard: a small process at the head of the command's process group.

The terminal sends C-c to the foreground group alone, which the supervisor must not be in; the guard hears it and tells.
And where the supervisor is killed outright, the guard ends the group, so that no training goes on unseen.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Callable, Optional

_READY, _INTERRUPTED = b"r", b"i"
_ORPHAN_S = 10.0
_LAST_WORD_S = 0.1
_LEAVING_S = 0.5
"""How long a command's own helpers may take to see that it has ended."""


class Guard:
    """Makes a process group of its own, in the foreground of the terminal on standard input where there is one."""

    def __init__(self) -> None:
        told, telling = os.pipe()
        self.told: Optional[int] = told
        lifeline, self._alive = os.pipe()
        self.group = os.fork()
        if self.group == 0:
            try:
                _guard(telling, lifeline)
            finally:
                os._exit(0)
        os.close(telling)
        os.close(lifeline)
        os.read(told, 1)  # ready, or gone
        os.set_blocking(told, False)

    def was_interrupted(self) -> bool:
        """True where C-c, or a SIGINT for the group, has come since the last look."""
        if self.told is None:
            return False
        try:
            heard = os.read(self.told, 64)
        except BlockingIOError:
            return False
        if not heard:  # the guard is gone, with the rest of its group
            os.close(self.told)
            self.told = None
        return _INTERRUPTED in heard

    def signal_group(self, number: int) -> None:
        """Signal whatever is in the group."""
        try:
            os.killpg(self.group, number)
        except (ProcessLookupError, PermissionError):
            return

    def end_group(self, meanwhile: Callable[[], object], grace_s: float) -> bool:
        """End the guard, and politely what the command has left behind in its group; True if that was still at work."""
        _take_terminal(os.getpgrp())
        if self.told is not None:  # a command may end before the guard has told of the same C-c
            select.select([self.told], [], [], _LAST_WORD_S)
        os.kill(self.group, signal.SIGKILL)
        os.waitpid(self.group, 0)
        left = not self._gone_within(_LEAVING_S, meanwhile)
        self.signal_group(signal.SIGTERM)
        self._gone_within(grace_s, meanwhile)
        self.signal_group(signal.SIGKILL)
        os.close(self._alive)
        return left

    def _gone_within(self, seconds: float, meanwhile: Callable[[], object]) -> bool:
        end = time.monotonic() + seconds
        while self._anyone():
            if time.monotonic() >= end:
                return False
            meanwhile()
        return True

    def _anyone(self) -> bool:
        try:
            os.killpg(self.group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def _take_terminal(group: int) -> None:
    """Bring a group to the foreground of the terminal on standard input, where there still is one."""
    try:
        if os.isatty(0):
            os.tcsetpgrp(0, group)
    except OSError:
        return


def _guard(telling: int, lifeline: int) -> None:
    """The guard's own life, in the child: never returns to the supervisor's code."""
    signal.set_wakeup_fd(-1)
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: os.write(telling, _INTERRUPTED))
    keep = {telling, lifeline}
    for descriptor in range(3, 256):
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                continue
    _take_terminal(os.getpid())
    os.write(telling, _READY)
    os.read(lifeline, 1)  # ends when the supervisor does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        os.killpg(0, number)
        time.sleep(_ORPHAN_S)
