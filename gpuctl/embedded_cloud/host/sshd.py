"""The host's SSH server: the pinned key, the caller's key and no other way in, OpenSSH's limits."""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import logging
import os
import socket
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

import asyncssh

from gpuctl.embedded_cloud.host import environment
from gpuctl.embedded_cloud.host.boot import CloudConfig
from gpuctl.embedded_cloud.host.children import Children
from gpuctl.embedded_cloud.host.config import HostConfig
from gpuctl.embedded_cloud.host.session import HostSession, Login

MAX_SESSIONS = 10
"""Open sessions on one connection (sshd_config's MaxSessions)."""
MAX_AUTH_TRIES = 6
"""Failed attempts on one connection, after which it is closed (sshd_config's MaxAuthTries)."""

_ADMISSION_TIMEOUT_S = 5.0
_LOG_BYTES = 1_000_000
_log = logging.getLogger("gpuctl.sshd")


@dataclass(frozen=True)
class SshHost:
    """What the server needs of its host."""

    config: HostConfig
    run_folder: Path
    children: Children
    authorized: frozenset[asyncssh.SSHKey]


class HostServer(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, host: SshHost) -> None:
        self._host = host
        self._failures = 0
        self._sessions = 0
        self._conn: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Remembers the connection."""
        self._conn = conn

    def public_key_auth_supported(self) -> bool:
        """The only way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Any user name does, as on an image whose default user one need not know; only the caller's key does."""
        if key in self._host.authorized:
            return True
        self._failures += 1
        if self._failures >= MAX_AUTH_TRIES:
            _log.info("too many authentication failures for %s from %s", username, self._peer())
            raise asyncssh.ProtocolError("Too many authentication failures")
        return False

    def auth_completed(self) -> None:
        """Notes who is in."""
        assert self._conn is not None
        _log.info("publickey for %s from %s", self._conn.get_extra_info("username"), self._peer())

    def session_requested(self) -> HostSession:
        """A new session, within the limit."""
        assert self._conn is not None
        if self._sessions >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        self._sessions += 1
        return HostSession(self._login(self._conn), self._session_closed)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """Forwards to the host's own loopback alone."""
        if not _is_loopback(dest_host):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "only to the host itself")
        return True

    def _session_closed(self) -> None:
        self._sessions -= 1

    def _login(self, conn: asyncssh.SSHServerConnection) -> Login:
        config = self._host.config
        env = environment.environment(config, self._host.run_folder, user=conn.get_extra_info("username"))
        peer, own = conn.get_extra_info("peername"), conn.get_extra_info("sockname")
        if peer and own:
            env["SSH_CLIENT"] = f"{peer[0]} {peer[1]} {own[1]}"
            env["SSH_CONNECTION"] = f"{peer[0]} {peer[1]} {own[0]} {own[1]}"
        return Login(self._host.children, env, environment.shell(), environment.home(config))

    def _peer(self) -> str:
        return str(self._conn.get_extra_info("peername")) if self._conn else "nowhere"


async def serve(
    config: HostConfig, run_folder: Path, cloud_config: CloudConfig, children: Children
) -> asyncio.Task[None]:
    """Begins to answer on the host's listening socket. Raises ValueError where a key cannot be read."""
    _log_to(environment.log(config, "sshd.log"))
    host_key = _host_key(config, cloud_config)
    host = SshHost(config, run_folder, children, _authorized(cloud_config))
    options = await asyncssh.SSHServerConnectionOptions.construct(
        server_factory=lambda: HostServer(host),
        server_host_keys=[host_key],
        encoding=None,
        line_editor=False,
        agent_forwarding=False,
        x11_forwarding=False,
        gss_host=None,
    )
    listener = socket.socket(fileno=config.listen_fd)
    listener.setblocking(False)
    listener.set_inheritable(False)
    return asyncio.create_task(_accept(listener, config.admits_url, options))


async def _accept(listener: socket.socket, admits_url: str, options: asyncssh.SSHServerConnectionOptions) -> None:
    loop = asyncio.get_running_loop()
    going: set[asyncio.Task[None]] = set()
    while True:
        try:
            client, address = await loop.sock_accept(listener)
        except OSError as error:  # the client is gone again, or this process holds too many descriptors
            _log.warning("accept: %s", error)
            await asyncio.sleep(0.1)
            continue
        task = asyncio.create_task(_answer(client, str(address[0]), admits_url, options))
        going.add(task)
        task.add_done_callback(going.discard)


async def _answer(
    client: socket.socket, address: str, admits_url: str, options: asyncssh.SSHServerConnectionOptions
) -> None:
    """One connection, up to its authentication. Who is not admitted sees it closed before the banner."""
    if not await asyncio.to_thread(admitted, admits_url, address):
        _log.info("%s is not admitted", address)
        client.close()
        return
    with suppress(asyncssh.Error, OSError):  # a client that goes away, or may not come in
        await asyncssh.run_server(client, options=options)


def admitted(admits_url: str, address: str) -> bool:
    """What the cloud's security groups say of a caller's address. A cloud that does not answer admits nobody."""
    url = urllib.parse.urlsplit(admits_url)
    query = "&".join(filter(None, [url.query, urllib.parse.urlencode({"address": address})]))
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_ADMISSION_TIMEOUT_S)
    try:
        connection.request("GET", f"{url.path}?{query}")
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException) as error:
        _log.warning("the cloud does not say whether %s is admitted: %s", address, error)
        return False
    finally:
        connection.close()


def _host_key(config: HostConfig, cloud_config: CloudConfig) -> asyncssh.SSHKey:
    """The key from user-data; without one, the disk's own, made at the first boot."""
    if cloud_config.host_private is not None:
        return asyncssh.import_private_key(cloud_config.host_private)
    path = config.disk / "etc" / "ssh" / "ssh_host_ed25519_key"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(path)
        path.chmod(0o600)
        return key
    return asyncssh.read_private_key(path)


def _authorized(cloud_config: CloudConfig) -> frozenset[asyncssh.SSHKey]:
    return frozenset(asyncssh.import_public_key(line) for line in cloud_config.authorized_keys)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _PrivateLog(RotatingFileHandler):
    """A log that its owner alone can read, the new one too when the old one is full."""

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        os.fchmod(stream.fileno(), 0o600)
        return stream


def _log_to(path: Path) -> None:
    handler = _PrivateLog(path, maxBytes=_LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    asyncssh.set_log_level(logging.ERROR)
    for name in ("gpuctl.sshd", "asyncssh"):
        logging.getLogger(name).addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
