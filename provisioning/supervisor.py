"""The supervisor: starts the training command in its pane, keeps every byte that it prints, and writes how it ended."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from provisioning.afterwards import after_training, before_training, idle_limit
from provisioning.command import Command, read_command
from provisioning.guard import Guard
from provisioning.lease import power_off_when_due
from provisioning.paths import (
    Paths,
    disk_is_full,
    forget_last_run,
    note_traceback,
    read_json,
    reserve,
    write_json,
)
from provisioning.processes import adopt_orphans, named, reap_orphans, still_at_work
from provisioning.protocol import Channel, PayloadError
from provisioning.runnable import CannotRun, explain, needs_a_shell
from provisioning.state import boot_id
from provisioning.stopping import Beyond, send_signal
from provisioning.terminal import Pane, keep_keys_harmless

_CHUNK = 1 << 16
_LAST_WORDS_S = 1.0
_LAST_WORDS_BYTES = 8192
_TERM_S = 3.0
_LEAVING_S = 2.0
"""How long what has left the command's group may take to see that it has ended."""
_HANGUP_GRACE_S = 60.0
_FROM_OUTSIDE = "its host was shut down, or its tmux session was ended"
_HARMLESS = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGXCPU", "SIGPWR", "SIGTRAP")
"""Signals that end a program which does not expect them, and that a command may send to its parent."""


def run_verb(paths: Paths, channel: Channel) -> int:
    """Run the provisioned command to its end, then wait to power off where an idle limit is set."""
    del channel  # nobody is at the other end: the pane is a person's
    lock = _take_lock(paths)
    adopt_orphans()
    signals = _Signals()
    spec = read_json(paths.spec)
    provisioned = read_json(paths.provisioned)
    if spec is None or provisioned is None:
        raise PayloadError("this host is not provisioned", "provision it first")
    with suppress(OSError):  # a full disk
        before_training(paths, spec)
    _supervise(paths, spec, provisioned, signals)
    if idle_limit(spec) is not None:
        power_off_when_due(paths, pause=signals.pause)
    os.close(lock)
    return 0


def _take_lock(paths: Paths) -> int:
    paths.run.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(100):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):  # a full disk
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, str(paths.attempt).encode("ascii"), 0)
            return descriptor
        except BlockingIOError:  # another supervisor, or somebody who looks whether there is one
            time.sleep(0.02)
    raise PayloadError("a supervisor runs on this host already")


def _supervise(paths: Paths, spec: dict[str, Any], provisioned: dict[str, Any], signals: _Signals) -> None:
    """Run the command and write `exit.json`, whatever the command is."""
    forget_last_run(paths)
    with suppress(OSError):  # `start` has done it where one was asked
        reserve(paths)
    run = _Run(paths, signals)
    state, code, why = "failed", 1, None
    try:
        code = run.to_its_end(spec, provisioned)
        state = "stopped" if run.stopped else "succeeded" if code == 0 else "failed"
        why = run.why
    except CannotRun as error:
        code, why = error.code, error.why
        run.refuse(why)
    except Exception as error:  # noqa: BLE001  whatever it is, the run has ended, and somebody must power the host off
        why = f"gpuctl's supervisor failed: {type(error).__name__}: {error}"
        note_traceback(paths)
        run.note(why)
    if run.log_is_cut or (state == "failed" and _died_of_a_full_disk(paths)):
        full = f"the host's disk ran full{_disk_size(paths)}"
        run.note(full)
        why = f"{full}; {why}" if why else full
    with suppress(OSError):  # before the end is told, so that whoever hears of it hears of this
        after_training(paths, spec, state=state, took_s=time.time() - run.began)
    write_json(paths.exit, {"state": state, "exit_code": code, "ended": time.time(), "why": why})
    run.pane.show(f"\ngpuctl: training {state} (exit code {code})\n".encode())


def _died_of_a_full_disk(paths: Paths) -> bool:
    """True where its last words say so, or where the disk is full now."""
    try:
        with open(paths.log, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST_WORDS_BYTES))
            last = log.read()
    except OSError:
        last = b""
    return b"No space left on device" in last or b"Disk quota exceeded" in last or disk_is_full(paths)


def _disk_size(paths: Paths) -> str:
    try:
        disk = os.statvfs(paths.root)
    except OSError:  # the command has removed it
        return ""
    return f" ({disk.f_blocks * disk.f_frsize / 2**30:.1f} GiB)"


_LEFT_RUNNING = "what it had left running in the background was ended with it"
_ENDED_WITH_IT = (
    f"the command ended, and {_LEFT_RUNNING}: run that in the foreground, without `&`, or end the script with `wait`"
)


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
        for name in _HARMLESS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: None)
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
        reap_orphans()
        return signal.SIGTERM not in heard and signal.SIGHUP not in heard


class _Run:
    """One execution of the command."""

    def __init__(self, paths: Paths, signals: _Signals) -> None:
        self.paths = paths
        self.signals = signals
        self.pane = Pane(1)
        self.log: Optional[int] = None
        self.log_is_cut = False
        self.next_look = 0.0
        self.why: Optional[str] = None
        self.stopped = False
        self.steps: list[tuple[float, int]] = []
        self.step: Optional[int] = None
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.output: Optional[int] = None
        self.began = time.time()
        try:
            self.log = os.open(paths.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            self.pane.show(f"gpuctl: there is no log: {error}\n".encode())

    def to_its_end(self, spec: dict[str, Any], provisioned: dict[str, Any]) -> int:
        """Start the command, wait until it has ended and nothing of it is left: its exit code. Raises CannotRun."""
        command = read_command(self.paths, spec, provisioned)
        program = command.program()
        keep_keys_harmless(0)
        guard = Guard()
        self.beyond = Beyond(guard.group)
        try:
            self.process = process = self._start(command, program, guard.group)
            self.tell_started(guard.group)
            while process.poll() is None or (self.steps and self.beyond.goes_on()):
                self._turn(guard, self._until_next_step())
            self._last_words()
        finally:
            left = guard.end_group(lambda: self._turn(guard, 0.05), _TERM_S)
            self.stopped = guard.was_interrupted() or self.stopped
            self._last_words()
            self._close_output()
            if left and not self.stopped:
                self.why = _LEFT_RUNNING if process.returncode == 0 else None
                self.note(_ENDED_WITH_IT)
            self._name_what_goes_on()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _name_what_goes_on(self) -> None:
        """What has left the command's group is not ended with it: it is named, and holds `down` up while it runs."""
        end = time.monotonic() + _LEAVING_S
        while (going_on := still_at_work(self.paths, ())) and time.monotonic() < end:
            self.signals.pause()
        if going_on:
            runs_on = f"what it had started runs on: {named(going_on)}"
            self.note(f"the command ended, and {runs_on}; outputs are home only once that has ended")
            self.why = f"{self.why}; {runs_on}" if self.why else runs_on

    def tell_started(self, group: Optional[int] = None) -> None:
        """Write down that it has begun; what is in the log by now is not the command's first output."""
        log_bytes = os.fstat(self.log).st_size if self.log is not None else 0
        record = {"state": "running", "started": self.began, "pid": os.getpid(), "pgid": group, "log_bytes": log_bytes}
        write_json(self.paths.state, {**record, "boot": boot_id()})

    def refuse(self, why: str) -> None:
        """Say why nothing ran."""
        self.note(why)
        self.tell_started()

    def _start(self, command: Command, program: Path, group: int) -> subprocess.Popen[bytes]:
        """Start the command, a script without `#!` as a shell does. Raises CannotRun."""
        name = command.words[0]
        try:
            return self._spawn(command, command.words, program, group)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            if getattr(error, "errno", None) != errno.ENOEXEC or not needs_a_shell(program):
                raise explain(error, name, program, command.words, command.environment) from error
        self.note(f"{name} has no #! line: /bin/sh runs it")
        return self._spawn(command, ["/bin/sh", str(program), *command.words[1:]], Path("/bin/sh"), group)

    def _spawn(self, command: Command, words: list[str], program: Path, group: int) -> subprocess.Popen[bytes]:
        def in_the_group() -> None:
            os.setpgid(0, group)
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)

        self._close_output()
        self.output, writing = os.pipe()
        os.set_blocking(self.output, False)
        try:
            return subprocess.Popen(
                words,
                executable=program,
                cwd=self.paths.work,
                env=command.environment,
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
            self._pass_on(guard)
        if self.signals.descriptor in ready:
            self._obey(self.signals.heard())
        now = time.monotonic()
        if now >= self.next_look:
            # A `provision` that the laptop has left, and that ends only now, would end the host while it trains.
            self.paths.power_off_at.unlink(missing_ok=True)
            self.next_look = now + 1.0
            reap_orphans((guard.group, self.process.pid if self.process else 0))
            if self.step == signal.SIGINT:  # whoever has lost its parent since
                self.beyond.signal(self.step)
        while self.steps and self.steps[0][0] <= now:
            self.step = self.steps.pop(0)[1]
            guard.signal_group(self.step)
            told = self.beyond.signal(self.step)
            if self.step == signal.SIGKILL and told:
                self.note(f"killed: {told}")

    def _pass_on(self, guard: Guard) -> None:
        """A C-c in the pane to a command that has left the guard's group, as `timeout` does; a stop tells it itself."""
        if self.process is not None and not self.steps:
            with suppress(OSError):
                if os.getpgid(self.process.pid) != guard.group:
                    send_signal([self.process.pid], signal.SIGINT)

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
        while rest and self.log is not None:
            try:
                rest = rest[os.write(self.log, rest) :]
            except OSError as error:  # a full disk ends the log, not the training
                self.log_is_cut = True
                self.pane.show(f"gpuctl: the log cannot be written: {error.strerror}\n".encode())
                break
        self.pane.show(data)

    def note(self, text: str) -> None:
        """A line of gpuctl's own in the log."""
        self._keep(f"gpuctl: {text}\n".encode("utf-8", "backslashreplace"))

    def _obey(self, heard: bytes) -> None:
        if signal.SIGTERM in heard:
            asked = (read_json(self.paths.stop) or {}).get("grace_s")
            self.why = self.why if asked is not None else _FROM_OUTSIDE
            self._stop_within(float(asked) if isinstance(asked, (int, float)) else _HANGUP_GRACE_S)
        elif signal.SIGHUP in heard:  # the tmux server was killed
            self.why = _FROM_OUTSIDE
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
