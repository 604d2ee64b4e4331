"""One host's first process, seen from the cloud: started, listened to, ended by letting go of its lifeline.

The host program reads one line of JSON on standard input, which then stays open: its end is the host's end. It prints
JSON lines: `booted`, `boot-warning` and `boot-error` (with `message`), and last `ended` (with `reason`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuctl.core.interpreter import module_command

HOST_COMMAND = module_command(sys.executable, "gpuctl.embedded_cloud.host")

log = logging.getLogger(__name__)


class HostProcess:
    """A host's life from start to end. `on_event` is called with each event, on the host's own thread; last with
    `{"event": "ended", "reason": …}`, once, whatever happens (`crash`: it ended without a word)."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        listener: socket.socket,
        log_file: Path,
        on_event: Callable[[dict[str, Any]], None],
        on_pid: Callable[[int], None],
        command: Sequence[str] = HOST_COMMAND,
    ) -> None:
        self._config = config
        self._listener = listener
        self._log_file = log_file
        self._on_event = on_event
        self._on_pid = on_pid
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._live, name=str(config["instance_id"]), daemon=True)

    def start(self) -> None:
        """Begins its boot and returns at once."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The first process's id; None before it has been started."""
        with self._lock:
            return self._process.pid if self._process else None

    def end(self) -> None:
        """Lets go of the lifeline and returns at once; `ended` follows."""
        with self._lock:
            self._ending = True
            if self._process and self._process.stdin:
                self._let_go(self._process)

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end; after the timeout kills the first process. False where that was needed."""
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        with self._lock:
            process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.join(timeout_s)
        return False

    def _live(self) -> None:
        reason = "crash"
        try:
            process = self._spawn()
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    event = _event(line)
                    if event.get("event") == "ended":
                        reason = str(event.get("reason"))
                    elif event:
                        self._on_event(event)
            process.wait()
            with self._lock:
                self._let_go(process)
        except OSError:
            log.exception("%s: the host's process could not be started", self._config["instance_id"])
        self._on_event({"event": "ended", "reason": reason})

    def _spawn(self) -> subprocess.Popen[bytes]:
        config = {**self._config, "listen_fd": self._listener.fileno()}
        with self._log_file.open("ab") as log_file:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,
                pass_fds=[self._listener.fileno()],
                env=_own_environment(),
                cwd=self._log_file.parent,
            )
        self._on_pid(process.pid)
        with self._lock:
            self._process = process
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(config).encode("ascii") + b"\n")
                process.stdin.flush()
            if self._ending:
                self._let_go(process)
        return process

    @staticmethod
    def _let_go(process: subprocess.Popen[bytes]) -> None:
        if process.stdin and not process.stdin.closed:
            with suppress(BrokenPipeError):
                process.stdin.close()


def _own_environment() -> dict[str, str]:
    """What the host program itself runs with: no more of the user's environment than Python needs."""
    kept = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _event(line: bytes) -> dict[str, Any]:
    """One line of the host program's; empty where it is none of the protocol's."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else {}
