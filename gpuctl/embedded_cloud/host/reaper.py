"""The host's first process: it holds the lifeline, starts the second, and at the end leaves nothing of the host.

It imports little, so that a host costs little and begins at once. Whatever the host orphans becomes its child.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Literal

import gpuctl
from gpuctl.core.interpreter import module_command
from gpuctl.embedded_cloud.host import environment, shims
from gpuctl.embedded_cloud.host.boot import parse
from gpuctl.embedded_cloud.host.config import HostConfig, MachineConfig
from gpuctl.embedded_cloud.host.processes import adopt_orphans, end_all, reap

Reason = Literal["poweroff", "reboot", "lifeline", "boot-error"]

_OFTEN = 10
"""More reboots, or more ends of the second process, than this within `_OFTEN_S` end the host."""
_OFTEN_S = 60.0
_CHUNK = 65536


def main() -> int:
    """Runs one host to its end. 0: nothing of it is left, 1: a process would not end, 2: a bad description."""
    with suppress(PermissionError):
        os.setsid()  # a Ctrl-C in the terminal that the cloud was started from is not meant for its hosts
    try:
        config = HostConfig.from_json(_first_line(sys.stdin.fileno()))
    except ValueError as error:
        print(f"not a host's description: {error}", file=sys.stderr)
        return 2
    adopt_orphans()
    os.umask(0o077)
    return FirstProcess(config).run()


class FirstProcess:
    """What the first process knows of its host."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._selector = selectors.DefaultSelector()
        self._run_folder: Path | None = None
        self._power = -1
        self._machine: subprocess.Popen[bytes] | None = None
        self._reports = b""
        self._boots: deque[float] = deque(maxlen=_OFTEN)
        self._deaths: deque[float] = deque(maxlen=_OFTEN)
        self._signalled = False

    def run(self) -> int:
        """Boots, serves until there is a reason to end, ends."""
        self._listen_to_signals()
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._on_lifeline)
        try:
            reason = self._begin() or self._serve()
        except OSError as error:  # a full disk, a folder that may not be written
            _tell({"event": "boot-error", "message": f"this machine does not let the host run: {error}"})
            reason = "boot-error"
        gone = self._end_processes()
        _tell({"event": "ended", "reason": reason})
        return 0 if gone else 1

    def _begin(self) -> Reason | None:
        for part in parse(self._config.user_data).not_obeyed:
            _tell({"event": "boot-warning", "message": part})
        environment.make_disk(self._config)
        return self._boot()

    def _serve(self) -> Reason:
        while True:
            for key, _ in self._selector.select():
                reason: Reason | None = key.data()
                if reason == "reboot":
                    reason = self._reboot()
                    if reason is None:
                        break  # what else was ready belongs to the boot before
                if reason:
                    return reason

    def _boot(self) -> Reason | None:
        if _often(self._boots):
            return "reboot"
        self._run_folder = environment.make_run_folder(self._config)
        self._power = os.open(environment.power_pipe(self._run_folder), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._power, selectors.EVENT_READ, self._on_power)
        self._start_machine(boot=True)
        return None

    def _reboot(self) -> Reason | None:
        _tell({"event": "rebooting"})
        self._end_processes()
        return self._boot()

    def _start_machine(self, *, boot: bool) -> None:
        assert self._run_folder is not None
        config = MachineConfig(host=self._config, run_folder=self._run_folder, boot=boot)
        with environment.log(self._config, "host.log").open("ab") as errors:
            machine = subprocess.Popen(
                module_command(sys.executable, "gpuctl.embedded_cloud.host.machine"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._config.disk,
                env=_machine_environment(self._config, self._run_folder),
                pass_fds=(self._config.listen_fd,),
                start_new_session=True,
            )
        assert machine.stdin and machine.stdout
        with suppress(BrokenPipeError):
            machine.stdin.write(config.to_json().encode() + b"\n")
            machine.stdin.flush()  # and it stays open: the machine's lifeline
        self._machine = machine
        self._reports = b""
        self._selector.register(machine.stdout.fileno(), selectors.EVENT_READ, self._on_report)

    def _forget_machine(self) -> None:
        if self._machine:
            machine, self._machine = self._machine, None
            assert machine.stdin and machine.stdout
            self._selector.unregister(machine.stdout.fileno())
            machine.stdout.close()
            with suppress(OSError):
                machine.stdin.close()
            machine.returncode = 0  # `reap` has collected it, or will

    def _on_lifeline(self) -> Reason | None:
        return None if os.read(sys.stdin.fileno(), _CHUNK) else "lifeline"

    def _on_power(self) -> Reason | None:
        words = os.read(self._power, _CHUNK).split()
        if shims.POWEROFF.encode() in words:
            return "poweroff"
        return "reboot" if shims.REBOOT.encode() in words else None

    def _on_report(self) -> Reason | None:
        assert self._machine and self._machine.stdout
        data = os.read(self._machine.stdout.fileno(), _CHUNK)
        if not data:
            return self._restart_machine()
        *lines, self._reports = (self._reports + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            _tell(report)
            if report["event"] == "boot-error":
                return "boot-error"
        return None

    def _restart_machine(self) -> Reason | None:
        """The SSH server has died, or something on the host killed it: sessions are lost, what else runs goes on."""
        machine = self._machine
        assert machine is not None
        with suppress(ProcessLookupError):
            machine.kill()
        self._forget_machine()
        if _often(self._deaths):
            words = _last_words(environment.log(self._config, "host.log"))
            _tell({"event": "boot-error", "message": f"the SSH server ended {_OFTEN} times within a minute{words}"})
            return "boot-error"
        self._start_machine(boot=False)
        return None

    def _on_signal(self) -> Reason | None:
        with suppress(BlockingIOError):
            os.read(self._wakeup, _CHUNK)
        reap()
        return "poweroff" if self._signalled else None

    def _listen_to_signals(self) -> None:
        self._wakeup, write = os.pipe()
        for fd in (self._wakeup, write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._on_signal)

    def _note_signal(self, *_: object) -> None:
        self._signalled = True

    def _end_processes(self) -> bool:
        gone = end_all(self._config.mark, root=os.getpid())
        self._forget_machine()
        if self._power >= 0:
            self._selector.unregister(self._power)
            os.close(self._power)
            self._power = -1
        if self._run_folder:
            environment.remove_run_folder(self._run_folder)
            self._run_folder = None
        return gone


def _often(moments: deque[float]) -> bool:
    """Notes this moment; True where `_OFTEN` earlier ones lie within `_OFTEN_S`."""
    now = time.monotonic()
    often = len(moments) == _OFTEN and now - moments[0] < _OFTEN_S
    moments.append(now)
    return often


def _machine_environment(config: HostConfig, run_folder: Path) -> dict[str, str]:
    """The second process's: the host's own, and where this very gpuctl is imported from."""
    paths = [str(Path(gpuctl.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment.environment(config, run_folder, user="root") | {"PYTHONPATH": os.pathsep.join(paths)}


def _last_words(log: Path) -> str:
    """The log's last line, as text that a terminal may be shown; a host's own programs may write there too."""
    try:
        lines = log.read_bytes()[-_CHUNK:].decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    return ": " + "".join(letter for letter in last if letter.isprintable())[:200] if last else ""


def _first_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)  # what follows the line is the lifeline's
        if not byte:
            break
        line += byte
    return line


def _tell(event: dict[str, object]) -> None:
    """One JSON line on standard output. A cloud that is gone no longer listens."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")
