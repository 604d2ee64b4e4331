"""A host as the laptop has it: one kept connection, and the payload's verbs over it (docs/payload.md)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential

from gpuctl.core import shell
from gpuctl.core.errors import HostError, HostUnreachable
from gpuctl.core.hosts import SSHTarget
from gpuctl.remote.connection import KeyRejected, Link, name_of, open_link, translate_errors
from gpuctl.remote.payload import payload_hash
from gpuctl.remote.protocol import ONE_ANSWER, PATIENCE, Event, Patience, encode_request
from gpuctl.remote.session import CHUNK, QUIET_S, Session
from gpuctl.remote.transport import WINDOW, closing_after

_PAYLOAD = shell.Home("gpuctl/host.pyz")
_ADMISSION_S = 90.0
"""Seconds for which a refused key is tried again: cloud-init may not have put it in yet."""
_PROBE_S = 10.0
_LOOK_AT_IT = "look at it with `gpuctl ssh`, or remove it with `gpuctl down`"
_CHANNEL_S = 20.0
_PUT = Patience(120, 120)
_SENDING = Patience(float("inf"), 60)
"""A stream may be long, but never still."""

_PUT_PROGRAM = """\
import hashlib, os, sys
folder = os.path.join(os.path.expanduser("~"), "gpuctl")
place, wanted = os.path.join(folder, "host.pyz"), sys.argv[1]
try:
    with open(place, "rb") as file:
        if hashlib.sha256(file.read()).hexdigest() == wanted:
            print("same")
            sys.exit()
except OSError:
    pass
print("send", flush=True)
data = sys.stdin.buffer.read()
if hashlib.sha256(data).hexdigest() != wanted:
    sys.exit("the payload did not arrive whole")
os.makedirs(folder, exist_ok=True)
aside = "%s.%d" % (place, os.getpid())
with open(aside, "wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
os.replace(aside, place)
print("put")
"""
"""Puts the payload on a host: run there by its own python3, the payload's hash its one argument."""


class Reader(Protocol):
    """A stream of bytes from a host: `read` gives what is there, at most `size` bytes, and nothing at the end."""

    def read(self, size: int = ...) -> bytes: ...


@dataclass(frozen=True)
class Streams:
    """A verb's two streams; both must be read, or the host waits. `session` tells how it ended."""

    stdout: Reader
    stderr: Reader
    session: Session


class Host:
    """One host over one kept connection, made when first needed and again where it broke. May be shared by threads.

    A call that hears nothing for `quiet_s` looks whether the host still answers.
    """

    def __init__(
        self,
        target: SSHTarget,
        *,
        identity_file: Path,
        known_hosts_file: Path,
        connect_timeout_s: float = 10,
        quiet_s: float = QUIET_S,
        answer_within_s: float = _CHANNEL_S,
    ) -> None:
        self.target = target
        self.name = name_of(target)
        self._identity_file = identity_file
        self._known_hosts_file = known_hosts_file
        self._connect_timeout_s = connect_timeout_s
        self._quiet_s = quiet_s
        self._answer_within_s = answer_within_s
        self._link: Link | None = None
        self._opening = threading.Lock()
        self._probing = threading.Lock()

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Connects, where no connection stands. Raises HostUnreachable, HostKeyMismatch or HostError."""
        self._connected(timeout_s if timeout_s is not None else self._connect_timeout_s)

    def close(self) -> None:
        """Ends the connection. What runs on the host goes on."""
        with self._opening:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def wait_until_reachable(
        self,
        deadline: float,
        *,
        pause: Callable[[float], None] = time.sleep,
        on_wait: Callable[[HostError], None] | None = None,
    ) -> None:
        """Connects, trying again until the deadline (`time.monotonic`) while the host does not answer.

        `on_wait` hears why each try failed. A wrong host key is told at once; a key that the host does not take is
        tried for 90 s, as cloud-init may not have put it in yet. Raises the last try's error.
        """
        refused_since: list[float] = []

        def give_up(state: RetryCallState) -> bool:
            now = time.monotonic()
            if isinstance(_error_of(state), KeyRejected):
                refused_since.append(now)
                return now >= min(deadline, refused_since[0] + _ADMISSION_S)
            return now >= deadline

        def tell(state: RetryCallState) -> None:
            error = _error_of(state)
            if on_wait is not None and isinstance(error, HostError):
                on_wait(error)

        retrying = Retrying(
            retry=retry_if_exception_type((HostUnreachable, KeyRejected)),
            wait=wait_exponential(multiplier=0.1, max=2),
            stop=give_up,
            sleep=pause,
            before_sleep=tell,
            reraise=True,
        )
        retrying(self._try_until, deadline)

    def _try_until(self, deadline: float) -> None:
        left = max(deadline - time.monotonic(), 1.0)
        self.connect(timeout_s=min(self._connect_timeout_s, left))

    def alive(self, *, within_s: float = _PROBE_S) -> bool:
        """True where the host answers over the standing connection within that time.

        paramiko's own keep-alive asks and never looks for the answer.
        """
        link = self._link
        if link is None or not link.active:
            return False
        answered = threading.Event()

        def ask() -> None:
            with self._probing:
                try:
                    link.transport.global_request("keepalive@openssh.com", wait=True)
                except Exception:  # noqa: BLE001  (whatever paramiko raises: there was no answer)
                    return
                if link.active:
                    answered.set()

        threading.Thread(target=ask, name=f"gpuctl probe {self.name}", daemon=True).start()
        return answered.wait(within_s)

    def put_payload(self, data: bytes) -> None:
        """Puts `host.pyz` on the host, aside and renamed, where the one there is another or none."""
        line = shell.command("python3", "-I", "-c", _PUT_PROGRAM, payload_hash(data))
        with self._session(line, _PUT) as session:
            session.keep_stderr_tail()
            said = _line(session)
            if said == b"send\n":
                session.send([data])
                said = _line(session)
            session.result({"event": "put"} if said in (b"same\n", b"put\n") else None)

    def call(
        self,
        verb: str,
        request: Mapping[str, object],
        *,
        body: Reader | None = None,
        on_event: Callable[[Event], None] | None = None,
        timeout_s: float | None = None,
    ) -> Event:
        """Runs a verb, `body` behind the request. `on_event` hears each event as it comes; the last is the answer.

        An event's text is the host's own: show it through `core.outputs.printable`. It waits as long as that verb may
        take (`protocol.PATIENCE`), or `timeout_s`. Raises HostRefused where the verb failed, HostSilent, HostError.
        """
        patience = PATIENCE.get(verb, ONE_ANSWER)
        if timeout_s is not None:
            patience = patience.within(timeout_s)
        with self._verb(verb, request, patience, body=body) as session:
            session.keep_stderr_tail()
            last: Event | None = None
            for count, event in enumerate(session.events(), start=1):
                if count > patience.events:
                    raise HostError(f"{self.name} sends an endless answer to `{verb}`", _LOOK_AT_IT)
                if on_event is not None and event["event"] != "error":
                    on_event(event)
                last = event
            return session.result(last)

    @contextmanager
    def stream(self, verb: str, request: Mapping[str, object]) -> Iterator[Streams]:
        """Runs a verb whose output is not events alone. Leaving the context ends it."""
        with self._verb(verb, request, _SENDING) as session:
            yield Streams(_AllThere(session.read_stream), _AllThere(session.read_stderr), session)

    @contextmanager
    def watch(self, verb: str, request: Mapping[str, object], *, silence_s: float) -> Iterator[Iterator[Event]]:
        """Runs a verb and gives its events as they come; HostSilent after `silence_s` without one.

        The last event is given too, an `error` raised as HostRefused. Leaving the context ends the verb.
        """
        with self._verb(verb, request, Patience(float("inf"), silence_s)) as session:
            session.keep_stderr_tail()
            yield _watched(session)

    def _verb(
        self, verb: str, request: Mapping[str, object], patience: Patience, *, body: Reader | None = None
    ) -> Session:
        session = self._session(shell.command("python3", _PAYLOAD, verb), patience)
        session.send(_pieces(encode_request(request), body))
        return session

    def _session(self, line: str, patience: Patience) -> Session:
        link = self._connected(self._connect_timeout_s)
        with translate_errors(self.name):
            channel = link.transport.open_session(window_size=WINDOW, timeout=_CHANNEL_S)
            channel.settimeout(_CHANNEL_S)
            try:
                with closing_after(channel, self._answer_within_s):
                    channel.exec_command(line)
            except BaseException:
                channel.close()
                raise
        return Session(
            channel,
            name=self.name,
            alive=self.alive,
            total_s=patience.total_s,
            silence_s=patience.silence_s,
            quiet_s=self._quiet_s,
        )

    def _connected(self, timeout_s: float) -> Link:
        with self._opening:
            if self._link is not None and not self._link.active:
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = open_link(
                    self.target,
                    identity_file=self._identity_file,
                    known_hosts_file=self._known_hosts_file,
                    timeout_s=timeout_s,
                )
            return self._link


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _pieces(request: bytes, body: Reader | None) -> Iterator[bytes]:
    yield request
    while body is not None and (piece := body.read(CHUNK)):
        yield piece


def _line(session: Session, longest: int = 64) -> bytes:
    said = b""
    while not said.endswith(b"\n") and len(said) < longest and (more := session.read(longest)):
        said += more
    return said


def _watched(session: Session) -> Iterator[Event]:
    last: Event | None = None
    for event in session.events():
        if event["event"] != "error":
            yield event
        last = event
    session.result(last)


class _AllThere:
    """A reader that takes from paramiko all that has come: less would have it move the whole rest forward each time."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._held = memoryview(b"")

    def read(self, size: int = CHUNK) -> bytes:
        if not self._held:
            self._held = memoryview(self._receive(WINDOW))
        piece, self._held = self._held[:size], self._held[size:]
        return bytes(piece)
