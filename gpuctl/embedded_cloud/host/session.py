"""One SSH session: a command or a shell, with pipes or on a pseudo-terminal, or SFTP.

Bytes are moved by hand, at the pace of whoever is slower: what comes in waits in the channel's window, what goes out
stays in the pipe. asyncssh's own redirection cuts uploads short and loses output.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncssh
from asyncssh.stream import SSHServerStreamSession

from gpuctl.embedded_cloud.host import terminal
from gpuctl.embedded_cloud.host.children import Children
from gpuctl.embedded_cloud.host.sftp import HostFiles

_CHUNK = 65536
_TRANSPORT_HIGH = 4 * 1024 * 1024
_LOOK_AGAIN_S = 0.01
_LAST_WORDS_S = 0.1
_LAST_WORDS_LIMIT_S = 2.0
_CANNOT_RUN = 126
_SFTP_VERSION = 3


@dataclass(frozen=True)
class Login:
    """What every session of one connection shares. `environment` is the whole of it, `shell` runs every command."""

    children: Children
    environment: dict[str, str]
    shell: str
    home: Path


class HostSession(SSHServerStreamSession[bytes]):
    """What a client asked for in one session channel. `on_closed` is called once, at its end."""

    def __init__(self, login: Login, on_closed: Callable[[], None]) -> None:
        super().__init__(None, partial(HostFiles, login.home), sftp_version=_SFTP_VERSION)
        self._login = login
        self._on_closed = on_closed
        self._process: ProcessBridge | None = None

    def pty_requested(self, term_type: str, term_size: object, term_modes: object) -> bool:
        """A terminal is made when the command starts."""
        return True

    def shell_requested(self) -> bool:
        """Every user has a shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Every command is the shell's to refuse."""
        return True

    def session_started(self) -> None:
        """Starts what was asked for."""
        chan = self._chan
        assert isinstance(chan, asyncssh.SSHServerChannel)
        if chan.get_subsystem() is not None:
            super().session_started()
            return
        self._process = ProcessBridge(self._login, chan)
        self._process.start()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Standard input."""
        if self._process:
            self._process.feed(data)
        else:
            super().data_received(data, datatype)

    def eof_received(self) -> bool:
        """The end of standard input. True: output goes on."""
        if self._process:
            self._process.feed_eof()
            return True
        return super().eof_received()

    def pause_writing(self) -> None:
        """The client does not take output as fast as it comes."""
        if self._process:
            self._process.pause_output()
        else:
            super().pause_writing()

    def resume_writing(self) -> None:
        """The client takes output again."""
        if self._process:
            self._process.resume_output()
        else:
            super().resume_writing()

    def signal_received(self, name: str) -> None:
        """A signal for the command (RFC 4254, section 6.9)."""
        if self._process:
            self._process.signal(name)

    def break_received(self, msec: int) -> bool:
        """Breaks mean nothing here."""
        return False

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """The client's window has another size."""
        if self._process:
            self._process.resize(columns=width, rows=height)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is gone. As under OpenSSH a command without a terminal goes on until it writes."""
        if self._process:
            self._process.let_go()
        self._on_closed()
        super().connection_lost(exc)


class ProcessBridge:
    """One command, and the bytes between it and its channel."""

    def __init__(self, login: Login, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._login = login
        self._chan = chan
        self._loop = asyncio.get_running_loop()
        self._pid: int | None = None
        self._exit_code: int | None = None
        self._input: int | None = None
        self._outputs: dict[int, int | None] = {}
        self._terminal: tuple[int, int] | None = None
        self._waiting = bytearray()
        self._input_ends = False
        self._paused = False
        self._gone = False

    def start(self) -> None:
        """Starts the command; where that fails the client gets the reason and exit code 126."""
        try:
            if self._chan.get_terminal_type() is None:
                self._start_on_pipes()
            else:
                self._start_on_terminal()
        except OSError as error:
            self._chan.write_stderr(f"cannot start: {error}\n".encode())
            self._close_all()
            self._chan.exit(_CANNOT_RUN)
            return
        self._listen()

    def feed(self, data: bytes) -> None:
        """Input for the command. While it does not take it, the channel's window stays shut.

        A channel that resumes delivers all it has and opens its whole window at the first piece of that: to pause
        between two pieces would open it again and again. So what is delivered at once is taken at once: the command
        and the channel hold a window (2 MiB) each at most.
        """
        if self._input is not None:
            if not self._waiting:
                self._loop.call_soon(self._write_input)
            self._waiting += data

    def feed_eof(self) -> None:
        """No more input will come. A terminal has no end of file but the one that is typed."""
        self._input_ends = True
        if not self._waiting and not self._terminal:
            self._close_input()

    def pause_output(self) -> None:
        """Leaves output where it is."""
        self._paused = True
        for fd in self._outputs:
            self._loop.remove_reader(fd)

    def resume_output(self) -> None:
        """Goes on reading output."""
        self._paused = False
        self._listen()

    def signal(self, name: str) -> None:
        """Signals the command's process group; an unknown name is ignored."""
        number = getattr(signal, f"SIG{name}", None)
        if isinstance(number, signal.Signals) and self._pid is not None and self._exit_code is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    def resize(self, *, columns: int, rows: int) -> None:
        """Gives the terminal another size."""
        if self._terminal:
            terminal.resize(self._terminal[0], columns=columns, rows=rows)

    def let_go(self) -> None:
        """The channel is gone: the pipes close; a terminal hangs up."""
        self._gone = True
        self._close_all()

    def _start_on_pipes(self) -> None:
        (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
        for fd in (our_in, our_out, our_err):
            os.set_blocking(fd, False)
        self._input = our_in
        self._outputs = {our_out: None, our_err: asyncssh.EXTENDED_DATA_STDERR}
        try:
            self._start(self._command(), (their_in, their_out, their_err), {})
        finally:
            for fd in (their_in, their_out, their_err):
                os.close(fd)

    def _start_on_terminal(self) -> None:
        columns, rows, *_ = self._chan.get_terminal_size()
        server, program = terminal.open_pair(columns=columns, rows=rows, modes=self._chan.get_terminal_modes())
        self._terminal = (server, program)
        self._input = server
        self._outputs = {server: None}
        more = {"TERM": self._chan.get_terminal_type() or "dumb", "SSH_TTY": os.ttyname(program)}
        self._start(terminal.controlled_by(program, self._command()), (program, program, program), more)

    def _command(self) -> list[str]:
        command = self._chan.get_command()
        return [self._login.shell] if command is None else [self._login.shell, "-c", command]

    def _start(self, command: list[str], streams: tuple[int, int, int], more: dict[str, str]) -> None:
        asked = {name: value for name, value in self._chan.get_environment().items() if _accepted(name)}
        env = {**self._login.environment, **asked, **more}
        self._pid = self._login.children.start(
            command, env=env, folder=self._login.home, streams=streams, on_exit=self._on_exit
        )

    def _listen(self) -> None:
        if not self._paused:
            for fd in self._outputs:
                self._loop.add_reader(fd, self._read_output, fd)

    def _read_output(self, fd: int) -> bool:
        """Passes on what is there; True where there may be more."""
        if self._transport_is_full():
            self._loop.remove_reader(fd)
            self._loop.call_later(_LOOK_AGAIN_S, self._listen)
            return True
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: no program holds the terminal any more (Linux)
                raise
            data = b""
        if data:
            self._chan.write(data, self._outputs[fd])
        else:
            self._close_output(fd)
            self._finish_if_done()
        return bool(data)

    def _transport_is_full(self) -> bool:
        """True while the connection holds much unsent: asyncssh stops at the client's window alone, up to 4 GiB."""
        transport = getattr(self._chan.get_connection(), "_transport", None)
        return transport is not None and transport.get_write_buffer_size() > _TRANSPORT_HIGH

    def _write_input(self) -> None:
        fd = self._input
        if fd is None or self._gone:
            return
        try:
            del self._waiting[: os.write(fd, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads it any more: the rest goes nowhere, as under OpenSSH
            self._waiting.clear()
            self._input_ends = True
        if self._waiting:
            self._chan.pause_reading()
            self._loop.add_writer(fd, self._write_input)
            return
        self._loop.remove_writer(fd)
        if self._input_ends:
            self.feed_eof()
        self._chan.resume_reading()

    def _on_exit(self, code: int) -> None:
        self._exit_code = code
        if self._terminal and not self._gone:
            program = self._terminal[1]
            self._terminal = (self._terminal[0], -1)
            os.close(program)
            self._loop.call_later(_LAST_WORDS_S, self._end_terminal, self._loop.time() + _LAST_WORDS_LIMIT_S)
        self._finish_if_done()

    def _end_terminal(self, limit: float) -> None:
        """Hangs up a terminal whose command has ended and that is quiet: background jobs do not hold the session."""
        for fd in list(self._outputs):
            if self._paused or (self._read_output(fd) and self._loop.time() < limit):
                self._loop.call_later(_LAST_WORDS_S, self._end_terminal, limit)
                return
            if fd in self._outputs:
                self._close_output(fd)
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._exit_code is None or self._outputs or self._gone:
            return
        code = self._exit_code
        self._close_all()
        if code >= 0:
            self._chan.exit(code)
        else:
            name = signal.Signals(-code).name
            self._chan.exit_with_signal(name[3:])

    def _close_output(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        del self._outputs[fd]
        if fd == self._input:
            self._loop.remove_writer(fd)
            self._input = None
        os.close(fd)

    def _close_input(self) -> None:
        if self._input is not None and self._input not in self._outputs:
            self._loop.remove_writer(self._input)
            os.close(self._input)
            self._input = None

    def _close_all(self) -> None:
        for fd in list(self._outputs):
            self._close_output(fd)
        self._close_input()
        if self._terminal and self._terminal[1] >= 0:
            os.close(self._terminal[1])
        self._terminal = None
        self._waiting.clear()


def _accepted(name: str) -> bool:
    """What Ubuntu's sshd takes from a client (`AcceptEnv LANG LC_*`)."""
    return name == "LANG" or name.startswith("LC_")
