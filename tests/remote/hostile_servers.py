"""SSH servers that mean harm: they hold the pinned host key, or speak no SSH at all."""

from __future__ import annotations

import io
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST, cMSG_CHANNEL_DATA
from paramiko.message import Message
from remote_servers import Server

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """A port at which `talk` has each connection, in a thread of its own, until it returns or the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    peers: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        try:
            talk(peer)
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peers.append(peer)
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in peers:
            peer.close()


class Interface(paramiko.ServerInterface):
    """Takes the run's key; `partial`: as half of what it wants, `asked` for the rest."""

    def __init__(self, *, partial: str = "", on_exec: Callable[[paramiko.Channel], None] | None = None) -> None:
        self._partial, self._on_exec = partial, on_exec
        self.asked: list[str] = []

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL if self._partial else paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return self._partial or "publickey"

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        self.asked.append("keyboard-interactive")
        return paramiko.InteractiveQuery("sudo", "type your password", ("[sudo] password: ", False))

    def check_auth_password(self, username: str, password: str) -> int:
        self.asked.append("password")
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if self._on_exec is not None:
            threading.Thread(target=self._on_exec, args=(channel,), daemon=True).start()
        return True


class Mute(paramiko.Transport):
    """Answers everything but what is asked of a channel: keep-alives too."""

    _channel_handler_table = {  # noqa: RUF012 - as paramiko has it
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        MSG_CHANNEL_REQUEST: lambda channel, message: None,
    }


@contextmanager
def ssh_server(
    server: Server, interface: Interface, transport: type[paramiko.Transport] = paramiko.Transport
) -> Iterator[int]:
    """A port at which that one answers with the host's own key."""
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(server.host_key.private))
    made: list[paramiko.Transport] = []

    def talk(peer: socket.socket) -> None:
        made.append(transport(peer))
        made[-1].add_server_key(key)
        made[-1].start_server(server=interface)

    with listening(talk) as port:
        try:
            yield port
        finally:
            for one in made:
                one.close()


def flood(channel: paramiko.Channel) -> None:
    """Sends for ever, whatever the channel's window."""
    while not channel.closed:
        message = Message()
        message.add_byte(cMSG_CHANNEL_DATA)
        message.add_int(channel.remote_chanid)  # type: ignore[attr-defined]
        message.add_string(bytes(32_000))
        try:
            channel.transport._send_user_message(message)  # type: ignore[attr-defined]
        except (OSError, EOFError, paramiko.SSHException):
            return


def mangled(port: int, rng: random.Random, *, most: int = 1500) -> Talk:
    """The host at that port, with some of its first bytes (greeting, key exchange) changed, left out or added."""

    def talk(peer: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_carry, args=(peer, far), daemon=True).start()
        places = sorted(rng.randrange(most) for _ in range(rng.choice([1, 2, 20])))
        at = 0
        with far:
            while data := bytearray(far.recv(4096)):
                for place in places:
                    if at <= place < at + len(data):
                        _spoil(data, place - at, rng)
                at += len(data)
                peer.sendall(data)

    return talk


def _spoil(data: bytearray, place: int, rng: random.Random) -> None:
    kind = rng.randrange(3)
    if kind == 0:
        data[place : place + 1] = rng.randbytes(1)
    elif kind == 1:
        del data[place : place + rng.randrange(1, 9)]
    else:
        data[place:place] = rng.randbytes(rng.randrange(1, 9))


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(4096):
            sink.sendall(data)
    except OSError:
        return


def junk(rng: random.Random) -> Talk:
    """Bytes that are no SSH, or only at their beginning."""
    greeting = rng.choice(
        [b"", b"SSH-2.0-x\r\n", b"SSH-2.0\r\n", b"SSH-9.9-x\r\n", b"\xff\xfe\r\n", b"HTTP/1.1 400\r\n"]
    )
    length = rng.choice([0, 1, 12, 252, 35_000, 2**31 + 4, 2**32 - 4]).to_bytes(4, "big")
    kind = bytes([rng.choice([0, 1, 20, 21, 31, 52, 90, 255])])
    packet = rng.choice([b"", length, length + b"\x04" + kind])
    data = greeting + packet + rng.randbytes(rng.choice([0, 5, 400]))

    def talk(peer: socket.socket) -> None:
        peer.sendall(data)
        if rng.random() < 0.8:
            peer.close()

    return talk
