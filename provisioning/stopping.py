"""A stop reaches all that descends from the command: what has a group or a session of its own, what runs by `sudo`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection
from contextlib import suppress

from provisioning.processes import Process, descendants, is_daemon, living, named, topmost

_HANDS_ON = frozenset(("timeout", "sudo"))
"""Programs that give each signal to what they run. Two of it would break off a save: only they get one."""
_SUDO_S = 10.0


class Beyond:
    """What descends from this process and does not hear what its guard's group hears."""

    def __init__(self, guard: int) -> None:
        self._guard = guard
        self._told: set[int] = set()

    def signal(self, number: int) -> str:
        """Signal it; answers what that was, in words.

        SIGINT goes to each once, and only where nobody is left who hands it on: to the command itself, and to what has
        lost its parent. Whoever starts programs in groups of their own (torchrun) tells them himself.
        """
        below = [process for process in descendants(os.getpid(), living()) if process.pid != self._guard]
        deaf = [process for process in below if process.group == self._guard and not _may_signal(process.pid)]
        if number == signal.SIGINT:
            beyond = [*topmost(deaf), *self._left_alone(below)]
            beyond = [process for process in beyond if process.pid not in self._told]
            self._told.update(process.pid for process in beyond)
        else:
            beyond = [*deaf, *(process for process in below if process.group != self._guard)]
        words = named(beyond)  # before it is gone
        send_signal([process.pid for process in beyond], number)
        return words

    def goes_on(self) -> bool:
        """True while anything of that, daemons apart, is at work."""
        below = descendants(os.getpid(), living())
        return any(process.group != self._guard and not is_daemon(process) for process in below)

    def _left_alone(self, below: Collection[Process]) -> list[Process]:
        heads = [one for one in below if one.parent == os.getpid() and one.group != self._guard]
        groups = {one.group for one in heads if one.name not in _HANDS_ON}
        return [one for one in below if one.group in groups or one in heads]


def send_signal(pids: Collection[int], number: int) -> None:
    """Signal processes; those of another user as that user, where `sudo` asks for no password."""
    refused = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except PermissionError:
            refused.append(str(pid))
        except OSError:
            continue  # it ended meanwhile
    if refused:
        words = ["sudo", "-n", "kill", f"-{int(number)}", *refused]
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SUDO_S,
                start_new_session=True,
                check=False,
            )


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except OSError:
        return True
    return True
