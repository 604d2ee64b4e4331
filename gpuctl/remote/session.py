"""One command on a host: its standard streams, and a look at the link whenever they are quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from paramiko import Channel

from gpuctl.core.errors import GpuctlError, HostError, HostUnreachable
from gpuctl.core.outputs import printable
from gpuctl.remote.protocol import Event, EventReader, refused

CHUNK = 256 * 1024
QUIET_S = 15.0
"""Seconds of quiet after which the link is looked at."""
TICK_S = 1.0
_MOST_LATE_S = 1.0
"""How late a busy laptop looks at its clock; whoever was stopped (Ctrl-Z, a closed lid) looks later."""
_EXIT_S = 10.0
_TAIL = 2048
_SENT_AT_ONCE = 32 * 1024
_ENOUGH = 64 * 1024
"""Bytes of a stream that are progress: less than so many in the time of a silence is none."""


def waited_s(asked_s: float, *, since: float) -> float:
    """How long a wait took, of one that was longer than asked for what was asked for: the rest this laptop was stopped.

    `since` is when it began (`time.monotonic`).
    """
    return min(time.monotonic() - since, asked_s + _MOST_LATE_S)


class HostSilent(HostUnreachable):
    """A host that answers SSH, and not what it was asked: another connection would not change that."""


class Session:
    """A command that runs on a host.

    `body` goes to its standard input from a thread of its own, so that what it answers meanwhile is heard.
    Reading standard output raises HostSilent after `total_s` in all, or `silence_s` of waiting since the host last got
    on with it: an event, a piece of the body taken, much of a stream. On a quiet link it looks whether the host is
    there at all (`alive`).
    """

    def __init__(
        self,
        channel: Channel,
        *,
        name: str,
        alive: Callable[[], bool],
        total_s: float,
        silence_s: float,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._channel = channel
        self._name = name
        self._alive = alive
        self._total_s, self._spent = total_s, 0.0
        self._silence_s, self._waited = silence_s, 0.0
        self._last_try = False
        self._came = 0
        self._quiet_s = quiet_s
        self._threads: list[threading.Thread] = []
        self._feeding: Exception | None = None
        self._tail = b""
        channel.settimeout(TICK_S)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the command's streams and the threads on them."""
        with suppress(HostUnreachable), _link(self._name):
            self._channel.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def send(self, pieces: Iterable[bytes]) -> None:
        """Starts to send these pieces and then the end of standard input."""
        self._start(lambda: self._feed(pieces), "stdin")

    def keep_stderr_tail(self) -> None:
        """Starts to read standard error; its last lines are told where the command fails without saying why."""
        self._start(self._drain, "stderr")

    def heard(self) -> None:
        """The host got on with what it was asked."""
        self._waited, self._came = 0.0, 0
        self._last_try = self._spent >= self._total_s

    def read(self, size: int = CHUNK) -> bytes:
        """What standard output has, at most `size` bytes; empty at its end."""
        return self._receive(self._receive_in_time, size)

    def read_stream(self, size: int = CHUNK) -> bytes:
        """The same of a stream that is no events: that it comes is progress."""
        data = self.read(size)
        self._came += len(data)
        if self._came >= _ENOUGH:
            self.heard()
        return data

    def read_stderr(self, size: int = CHUNK) -> bytes:
        """The same of standard error."""
        return self._receive(self._channel.recv_stderr, size)

    def events(self, *, read: Callable[[], bytes] | None = None) -> Iterator[Event]:
        """The events on standard output (or what `read` gives) to its end."""
        reader = EventReader(self._name)
        read = read or self.read
        while data := read():
            for event in reader.feed(data):
                yield event
                self.heard()

    def result(self, last: Event | None) -> Event:
        """The command's answer, given its last event, once its output has ended.

        Raises HostRefused for an `error` event, HostUnreachable where the link broke, HostError where it ended without.
        """
        if last is not None and last["event"] == "error":
            raise refused(self._name, last)
        status = self.exit_status()
        if last is not None and status == 0:
            return last
        if self._feeding is not None:
            raise GpuctlError(f"could not read what was to be sent to {self._name}") from self._feeding
        raise HostError(
            f"{self._name}: the command there ended without answering (exit code {status}){self._last_words()}",
            "try again; what has been done already is not done again",
        )

    def exit_status(self) -> int:
        """Raises HostUnreachable where the link broke before the host told it."""
        self._channel.status_event.wait(_EXIT_S)
        status = self._channel.exit_status
        transport = self._channel.get_transport()
        if status == -1 and not transport.is_active():
            raise HostUnreachable(f"the connection to {self._name} broke", "try again: the run continues without it")
        return status

    def _last_words(self) -> str:
        for thread in self._threads:
            thread.join(timeout=1)
        lines = [line for line in self._tail.decode("utf-8", "backslashreplace").splitlines() if line.strip()]
        return f": {printable(lines[-1].strip())}" if lines else ""

    def _receive_in_time(self, size: int) -> bytes:
        left = min(self._total_s - self._spent, self._silence_s - self._waited)
        if left <= 0:
            if self._last_try:
                raise HostSilent(f"{self._name} did not answer in time", "try again")
            self._last_try, left = True, TICK_S
        timeout = max(0.01, min(TICK_S, left))
        self._channel.settimeout(timeout)
        began = time.monotonic()
        try:
            return self._channel.recv(size)
        finally:
            took = waited_s(timeout, since=began)
            self._spent, self._waited = self._spent + took, self._waited + took

    def _receive(self, receive: Callable[[int], bytes], size: int) -> bytes:
        probe_at = time.monotonic() + self._quiet_s
        while True:
            try:
                with _link(self._name):
                    return receive(size)
            except TimeoutError:
                if time.monotonic() < probe_at:
                    continue
                if not self._alive():
                    raise HostUnreachable(f"{self._name} no longer answers", "try again") from None
                probe_at = time.monotonic() + self._quiet_s

    def _start(self, work: Callable[[], None], what: str) -> None:
        thread = threading.Thread(target=work, name=f"gpuctl {what} {self._name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self, pieces: Iterable[bytes]) -> None:
        try:
            for piece in pieces:
                for start in range(0, len(piece), _SENT_AT_ONCE):
                    self._send_piece(piece[start : start + _SENT_AT_ONCE])
                    self.heard()
            self._channel.shutdown_write()
        except Exception as error:  # noqa: BLE001  (a thread's own end: `result` tells it)
            # The command ended first: what it said and its exit code tell why. A body that cannot be read is told here.
            if not self._channel.closed:
                self._feeding = error
                with suppress(HostUnreachable), _link(self._name):
                    self._channel.close()

    def _send_piece(self, piece: bytes) -> None:
        while piece:
            try:
                sent = self._channel.send(piece)
            except TimeoutError:
                continue
            if sent == 0:
                raise EOFError
            piece = piece[sent:]

    def _drain(self) -> None:
        try:
            while data := self._receive(self._channel.recv_stderr, CHUNK):
                self._tail = (self._tail + data)[-_TAIL:]
        except HostUnreachable:
            return


@contextmanager
def _link(name: str) -> Iterator[None]:
    """Whatever paramiko raises of a link that broke: EOFError from a window's adjustment, OSError, SSHException, …."""
    try:
        yield
    except (GpuctlError, TimeoutError):
        raise
    except Exception as error:
        raise HostUnreachable(f"the connection to {name} broke", "try again: the run continues without it") from error
