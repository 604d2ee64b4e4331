"""Processes that the second process starts, and who is told when one ends.

The second process adopts orphans, so every ended child is collected here, by `waitpid(-1)`: no other watcher may run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuctl.embedded_cloud.host.processes import reap


class Children:
    """The children of this process, on the running event loop."""

    def __init__(self) -> None:
        self._told: dict[int, Callable[[int], None]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._on_ended)

    def start(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str],
        folder: Path,
        streams: tuple[int, int, int],
        on_exit: Callable[[int], None],
    ) -> int:
        """Starts `command` in a session of its own; answers its pid. Raises OSError where it cannot be started.

        `on_exit` gets the exit code, negative for a signal.
        """
        stdin, stdout, stderr = streams
        child = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=folder if os.access(folder, os.X_OK) else "/",  # as sshd does
            start_new_session=True,
        )
        self._told[child.pid] = on_exit
        child.returncode = 0  # it is collected below, never through this object
        return child.pid

    def _on_ended(self) -> None:
        for pid, code in reap().items():
            told = self._told.pop(pid, None)
            if told:
                told(code)
