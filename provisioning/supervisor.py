"""The supervisor: starts the training command in its pane, keeps every byte that it prints, and writes how it ended."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Optional

from provisioning.command import Command, read_command
from provisioning.guard import Guard
from provisioning.lease import power_off_when_idle
from provisioning.places import Places, forget_last_run, read_json, write_json
from provisioning.protocol import Channel, PayloadError
from provisioning.terminal import Pane, keep_keys_harmless

_CHUNK = 1 << 16
_LAST_WORDS_S = 1.0
_TERM_S = 3.0
_HANGUP_GRACE_S = 60.0
NOT_FOUND, NOT_RUNNABLE = 127, 126


def run_verb(places: Places, channel: Channel) -> int:
    """Run the provisioned command to its end, then wait to power off where an idle limit is set."""
    del channel  # nobody is at the other end: the pane is a person's
    lock = _take_lock(places)
    signals = _Signals()
    spec = read_json(places.spec)
    provisioned = read_json(places.provisioned)
    if spec is None or provisioned is None:
        raise PayloadError("this host is not provisioned", "provision it first")
    _supervise(places, read_command(places, spec, provisioned), signals)
    idle_s = spec.get("idle_s")
    if isinstance(idle_s, (int, float)):
        power_off_when_idle(places, idle_s=float(idle_s), pause=signals.pause)
    os.close(lock)
    return 0


def _take_lock(places: Places) -> int:
    places.run.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(100):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:  # another supervisor, or somebody who looks whether there is one
            time.sleep(0.02)
    raise PayloadError("a supervisor runs on this host already")


def _supervise(places: Places, command: Command, signals: _Signals) -> None:
    """Run the command and write `exit.json`."""
    forget_last_run(places)
    run = _Run(places, command, signals)
    state, code = "failed", 1
    try:
        code = run.to_its_end()
        state = "stopped" if run.stopped else "succeeded" if code == 0 else "failed"
    except Exception as error:
        run.note(f"the supervisor failed: {type(error).__name__}: {error}")
        raise
    finally:
        write_json(places.exit, {"state": state, "exit_code": code, "ended": time.time()})
    run.pane.show(f"\ngpuctl: training {state} (exit code {code})\n".encode())


class _Signals:
    """Signals as bytes in a pipe, so that the one `select` hears them too.

    Handlers and not SIG_IGN: what is ignored stays ignored in the command.
    """

    def __init__(self) -> None:
        self.descriptor, told = os.pipe()
        for end in (self.descriptor, told):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)
        # The terminal asks who writes to it or changes it from the background.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def heard(self) -> bytes:
        """The numbers of the signals since the last look."""
        try:
            return os.read(self.descriptor, 4096)
        except BlockingIOError:
            return b""

    def pause(self) -> bool:
        """Wait half a second; False where somebody asked to leave."""
        select.select([self.descriptor], [], [], 0.5)
        heard = self.heard()
        return signal.SIGTERM not in heard and signal.SIGHUP not in heard


class _Run:
    """One execution of the command."""

    def __init__(self, places: Places, command: Command, signals: _Signals) -> None:
        self.places = places
        self.command = command
        self.signals = signals
        self.pane = Pane(1)
        self.log = os.open(places.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.stopped = False
        self.steps: list[tuple[float, int]] = []
        self.output: Optional[int] = None

    def to_its_end(self) -> int:
        """Start the command, wait until it has ended and nothing of it is left. Answers its exit code."""
        record = {"state": "running", "started": time.time(), "pid": os.getpid(), "pgid": None}
        log_bytes = os.fstat(self.log).st_size
        program = self.command.program()
        if program is None:
            return self._refuse(record, f"command not found: {self.command.words[0]}", NOT_FOUND)
        keep_keys_harmless(0)
        guard = Guard()
        try:
            process = self._spawn(program, guard.group)
            write_json(self.places.state, {**record, "pgid": guard.group, "log_bytes": log_bytes})
            while process.poll() is None:
                self._turn(guard, self._until_next_step())
            self._last_words()
        except PermissionError:
            return self._refuse(record, f"permission denied: {program}", NOT_RUNNABLE)
        finally:
            guard.end_group(lambda: self._turn(guard, 0.05), _TERM_S)
            self.stopped = guard.was_interrupted() or self.stopped
            self._last_words()
            self._close_output()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _refuse(self, record: dict[str, object], why: str, code: int) -> int:
        """Say why nothing ran; that line is not the command's first output."""
        self.note(why)
        write_json(self.places.state, {**record, "log_bytes": os.fstat(self.log).st_size})
        return code

    def _spawn(self, program: Path, group: int) -> subprocess.Popen[bytes]:
        def in_the_group() -> None:
            os.setpgid(0, group)
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)

        self.output, writing = os.pipe()
        os.set_blocking(self.output, False)
        try:
            return subprocess.Popen(
                self.command.words,
                executable=program,
                cwd=self.places.work,
                env=self.command.environment,
                stdin=0 if os.isatty(0) else subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                preexec_fn=in_the_group,  # no thread runs here
            )
        finally:
            os.close(writing)

    def _turn(self, guard: Guard, wait_s: float) -> None:
        """One look at everything: output, the pane, signals, C-c in the pane, the steps of a stop."""
        reading = [fd for fd in (self.output, self.signals.descriptor, guard.told) if fd is not None]
        writing = [fd for fd in (self.pane.descriptor,) if fd is not None and self.pane.wants_to_write]
        ready, writable, _ = select.select(reading, writing, [], wait_s)
        if writable:
            self.pane.write()
        if self.output in ready:
            self._take()
        if guard.told in ready and guard.was_interrupted():
            self.stopped = True
        if self.signals.descriptor in ready:
            self._obey(self.signals.heard())
        now = time.monotonic()
        while self.steps and self.steps[0][0] <= now:
            guard.signal_group(self.steps.pop(0)[1])

    def _take(self) -> bool:
        """Move what the command printed to the log and the pane; False where nothing is there."""
        if self.output is None:
            return False
        try:
            data = os.read(self.output, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close_output()
            return False
        self._keep(data)
        return True

    def _close_output(self) -> None:
        if self.output is not None:
            os.close(self.output)
            self.output = None

    def _keep(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.log, rest) :]
            except OSError as error:  # a full disk ends the log, not the training
                self.pane.show(f"gpuctl: the log cannot be written: {error.strerror}\n".encode())
                break
        self.pane.show(data)

    def note(self, text: str) -> None:
        """A line of gpuctl's own in the log."""
        self._keep(f"gpuctl: {text}\n".encode("utf-8", "backslashreplace"))

    def _obey(self, heard: bytes) -> None:
        if signal.SIGTERM in heard:
            asked = (read_json(self.places.stop) or {}).get("grace_s")
            self._stop_within(float(asked) if isinstance(asked, (int, float)) else _HANGUP_GRACE_S)
        elif signal.SIGHUP in heard:  # the tmux server was killed
            self._stop_within(_HANGUP_GRACE_S)

    def _stop_within(self, grace_s: float) -> None:
        """SIGINT now, since many scripts save on KeyboardInterrupt and hardly any on SIGTERM."""
        now = time.monotonic()
        self.stopped = True
        self.steps = [(now, signal.SIGINT), (now + grace_s / 2, signal.SIGTERM), (now + grace_s, signal.SIGKILL)]

    def _until_next_step(self) -> float:
        # SIGCHLD ends a wait at once; the second is for a signal that was lost to a full pipe.
        return min(1.0, max(0.0, self.steps[0][0] - time.monotonic())) if self.steps else 1.0

    def _last_words(self) -> None:
        """What is in the pipe now; whoever still holds its other end is not waited for."""
        end = time.monotonic() + _LAST_WORDS_S
        while self._take() and time.monotonic() < end:
            pass
