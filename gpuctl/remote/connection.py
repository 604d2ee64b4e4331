"""One SSH connection by Fabric: to the pinned host key, with the run's own key, over a socket that notices a dead link.

Fabric's `Connection` installs `AutoAddPolicy` in its constructor, reads `~/.fabric.yml` and the user's ssh_config, and
offers agent keys; all of that is put right here, and every exception of the stack below becomes one of gpuctl's.
"""

from __future__ import annotations

import logging
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paramiko
from fabric import Config, Connection
from paramiko.config import SSHConfig
from paramiko.hostkeys import HostKeys
from paramiko.ssh_exception import AuthenticationException, BadHostKeyException, IncompatiblePeer

from gpuctl.core.errors import GpuctlError, HostError, HostKeyMismatch, HostUnreachable
from gpuctl.core.hosts import SSHTarget
from gpuctl.core.outputs import printable
from gpuctl.remote.transport import KeyOnlyTransport

# Without a handler, logging's last resort would print paramiko's tracebacks to the terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

DEAD_LINK_S = 30
"""Seconds after which the system gives up on a link that swallows what is sent."""
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""TCP_KEEPALIVE is what macOS calls TCP_KEEPIDLE."""

_LOOK = "`gpuctl ls` shows what EC2 says about it"


class KeyRejected(HostError):
    """The host answers and is the right one, and does not take the run's key (yet)."""


class Link:
    """An open connection, and the proxy command's process where there is one."""

    def __init__(self, connection: Connection, proxy: subprocess.Popen[bytes] | None) -> None:
        self._connection = connection
        self._proxy = proxy

    @property
    def transport(self) -> paramiko.Transport:
        transport: paramiko.Transport = self._connection.transport
        return transport

    @property
    def active(self) -> bool:
        return self.transport.is_active()

    def close(self) -> None:
        with suppress(Exception):  # a link that broke cannot be told that it ends
            self._connection.close()
        _end(self._proxy)


def name_of(target: SSHTarget) -> str:
    """A host as messages name it: `char-rnn-k3f9 (203.0.113.7)`, its port where it is not SSH's own."""
    port = "" if target.port == 22 else f":{target.port}"
    return f"{target.alias} ({target.address}{port})"


def open_link(target: SSHTarget, *, identity_file: Path, known_hosts_file: Path, timeout_s: float) -> Link:
    """Connects and authenticates. Each of TCP, SSH's greeting and authentication may take `timeout_s`.

    Raises HostUnreachable, HostKeyMismatch, KeyRejected or HostError.
    """
    with translate_errors(name_of(target)):
        key = _load_key(identity_file, target)
        sock, proxy = _open_socket(target, timeout_s)
        connection = _connection(target, key=key, sock=sock, timeout_s=timeout_s)
        try:
            _pin(connection, known_hosts_file, target)
            connection.open()
        except BaseException:
            connection.client.close()
            sock.close()
            _end(proxy)
            raise
        return Link(connection, proxy)


def _connection(target: SSHTarget, *, key: paramiko.PKey, sock: socket.socket, timeout_s: float) -> Connection:
    # Lazy: no /etc/fabric.yml, no ~/.fabric.py; an explicit empty SSHConfig: no ~/.ssh/config.
    config = Config(lazy=True, ssh_config=SSHConfig(), overrides={"load_ssh_configs": False})
    return Connection(
        host=target.address,
        user=target.user,
        port=target.port,
        config=config,
        gateway=False,
        forward_agent=False,
        connect_kwargs={
            "pkey": key,
            "sock": sock,
            "transport_factory": KeyOnlyTransport,
            "allow_agent": False,
            "look_for_keys": False,
            "timeout": timeout_s,
            "banner_timeout": timeout_s,
            "auth_timeout": timeout_s,
            "channel_timeout": timeout_s,
        },
    )


def _pin(connection: Connection, known_hosts_file: Path, target: SSHTarget) -> None:
    client: paramiko.SSHClient = connection.client
    client.set_missing_host_key_policy(_RefuseUnknown(target))
    client._system_host_keys = HostKeys()  # type: ignore[attr-defined]
    try:
        client.load_host_keys(str(known_hosts_file))
    except OSError as error:
        raise HostKeyMismatch(
            f"{name_of(target)}: its pinned host key cannot be read ({known_hosts_file}: {error.strerror})",
            "nothing was sent; without that file the host cannot be verified",
        ) from error


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    def __init__(self, target: SSHTarget) -> None:
        self._target = target

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise HostKeyMismatch(
            f"{name_of(self._target)} answered with a host key ({key.fingerprint}) that the run does not know",
            "nothing was sent; the run's host is at another address, or this is not its host",
        )


def _load_key(identity_file: Path, target: SSHTarget) -> paramiko.PKey:
    try:
        return paramiko.Ed25519Key.from_private_key_file(str(identity_file))
    except (OSError, paramiko.SSHException, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not an ed25519 private key"
        raise HostError(
            f"this laptop has no key for {name_of(target)} ({identity_file}: {reason})",
            "use the laptop that launched the run",
        ) from error


def _open_socket(target: SSHTarget, timeout_s: float) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
    if target.proxy_command is not None:
        return _open_proxy(target, target.proxy_command)
    sock = socket.create_connection((target.address, target.port), timeout=timeout_s)
    # paramiko never sets it, and each small packet would wait for the answer to the last: 52 against 13 ms a command.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK_S * 1000)
    return sock, None


def _open_proxy(target: SSHTarget, proxy_command: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A proxy command's standard streams as one socket.

    Not `paramiko.ProxyCommand`: it spins for ever once the command has ended, and never waits for its process.
    """
    tokens = {"%h": target.address, "%p": str(target.port), "%r": target.user, "%n": target.alias, "%%": "%"}
    words = [re.sub("%[hprn%]", lambda token: tokens[token[0]], word) for word in shlex.split(proxy_command)]
    ours, theirs = socket.socketpair()
    streams = theirs.fileno()
    try:
        # In a session of its own: a Ctrl-C at the terminal is for gpuctl to act on, over a connection that stands.
        proxy = subprocess.Popen(
            words, stdin=streams, stdout=streams, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        ours.close()
        raise HostUnreachable(
            f"{name_of(target)}: its proxy command cannot be run ({printable(words[0])}: {error.strerror})", None
        ) from error
    finally:
        theirs.close()
    return ours, proxy


def _end(proxy: subprocess.Popen[bytes] | None) -> None:
    if proxy is None:
        return
    proxy.terminate()
    try:
        proxy.wait(timeout=2)
    except subprocess.TimeoutExpired:
        proxy.kill()
        proxy.wait()


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Whatever sockets and paramiko raise within, raised as the error of gpuctl's that it means.

    For what is no SSH at all paramiko raises whatever its parser does: IndexError, UnicodeDecodeError, ValueError, ….
    """
    try:
        yield
    except GpuctlError:
        raise
    except BadHostKeyException as error:
        raise HostKeyMismatch(
            f"{name} answered with another host key ({error.key.fingerprint}) "
            f"than the pinned one ({error.expected_key.fingerprint})",
            "nothing was sent: its address may now belong to another machine, or someone is in between",
        ) from error
    except AuthenticationException as error:
        raise KeyRejected(f"{name} does not accept the run's key", _LOOK) from error
    except IncompatiblePeer as error:
        raise HostError(
            f"{name} and this laptop have no common SSH algorithms ({printable(str(error))})", _LOOK
        ) from error
    except (TimeoutError, EOFError) as error:
        raise HostUnreachable(f"{name} does not answer", _LOOK) from error
    except OSError as error:
        raise HostUnreachable(f"{name} does not answer ({error.strerror or type(error).__name__})", _LOOK) from error
    except Exception as error:
        raise HostUnreachable(f"{name} does not answer as an SSH server ({printable(str(error))})", _LOOK) from error
