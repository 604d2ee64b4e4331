"""paramiko's transport for a peer that nobody trusts: one key is all it is ever given, and what it may fill is bounded.

paramiko reads as much as a packet says that it is long, before it knows who speaks; holds whatever comes beyond a
channel's window; and where a host wants more than the key, asks the person at the terminal for it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import paramiko
from paramiko import Channel
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA
from paramiko.message import Message
from paramiko.packet import Packetizer

from gpuctl.core.errors import HostError

WINDOW = 8 * 1024 * 1024
"""Bytes in flight: 1 Gbit/s over 80 ms is 10 MB; paramiko's own 2 MiB would hold a stream to a fifth of that."""
LARGEST_PACKET = 256 * 1024
"""Bytes: OpenSSH's own limit. An honest packet has 35,000 at most."""
_LONGEST_GREETING = 64 * 1024


class BoundedPacketizer(Packetizer):
    """Refuses a packet by the length that it says, and a greeting without end."""

    _greeting = 0

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """That many bytes. Raises SSHException where nobody needs so many."""
        if n > LARGEST_PACKET:
            raise paramiko.SSHException(f"a packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data

    def _read_timeout(self, timeout: float) -> bytes:
        data: bytes = super()._read_timeout(timeout)  # type: ignore[misc]
        self._greeting += len(data)
        if self._greeting > _LONGEST_GREETING:
            raise paramiko.SSHException("a greeting without end")
        return data


def _bounded(feed: Callable[[Channel, Message], None]) -> Callable[[Channel, Message], None]:
    def feed_bounded(channel: Any, message: Message) -> None:
        feed(channel, message)
        if max(len(channel.in_buffer), len(channel.in_stderr_buffer)) > WINDOW + LARGEST_PACKET:
            raise paramiko.SSHException("more than the window holds")

    return feed_bounded


class KeyOnlyTransport(paramiko.Transport):
    """Authenticates by public key and by nothing else, whatever the host offers."""

    _channel_handler_table = {  # noqa: RUF012 - as paramiko has it
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        MSG_CHANNEL_DATA: _bounded(Channel._feed),  # type: ignore[attr-defined]
        MSG_CHANNEL_EXTENDED_DATA: _bounded(Channel._feed_extended),  # type: ignore[attr-defined]
    }

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self.packetizer = BoundedPacketizer(sock)
        self.packetizer.set_log(self.logger)

    def auth_publickey(self, username: str, key: paramiko.PKey, event: threading.Event | None = None) -> list[str]:
        """As paramiko's. Raises HostError where the key is not enough for the host."""
        if super().auth_publickey(username, key, event):
            _refuse_to_say_more()
        return []

    def auth_password(self, *_: object, **__: object) -> NoReturn:
        """Never; nor what would ask on the terminal, in the host's own words."""
        _refuse_to_say_more()

    auth_interactive = auth_interactive_dumb = auth_password


def _refuse_to_say_more() -> NoReturn:
    raise HostError(
        "the host accepted the run's key but also asks for a password or a code",
        "nothing was sent: gpuctl's own hosts never ask; `gpuctl ls` shows what EC2 says about it",
    )


@contextmanager
def closing_after(channel: Channel, seconds: float) -> Iterator[None]:
    """Ends what waits on a channel without a limit of its own. Raises TimeoutError where it took that long."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(Exception):  # a link that broke: then nobody waits any more
            channel.close()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.name = "gpuctl closing"
    timer.start()
    try:
        yield
    except paramiko.SSHException as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
