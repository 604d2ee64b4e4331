"""Real SSH servers to talk to: a host of the embedded cloud, and (in the prove tier) OpenSSH's own sshd."""

from __future__ import annotations

import getpass
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpuctl.core.boot import BootKeys, user_data
from gpuctl.core.hosts import SSHTarget
from gpuctl.embedded_cloud.host.environment import MARK_VARIABLE
from gpuctl.embedded_cloud.host.processes import end_all
from gpuctl.remote.host import Host
from gpuctl.remote.keys import KeyPair, generate_key
from gpuctl.remote.ssh_config import render_known_hosts

_SSHD = os.environ.get("GPUCTL_SSHD") or shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
_START_S = 30.0

PRELUDE = """
import base64, hashlib, io, json, os, sys, tarfile, time
verb, request = sys.argv[1], json.loads(sys.stdin.buffer.readline())

def emit(event, onto=sys.stdout, **fields):
    print(json.dumps({"event": event, **fields}), file=onto, flush=True)

def listed(path, data, mtime_ns=1_000_000_000, inode=1, complete=True):
    emit("file", path=path, size=len(data), mtime_ns=mtime_ns, inode=inode, complete=complete)

def manifested(files):
    emit("manifest", files=files, bytes=0, state={})

def packed(tar, path, data, mtime=1, **header):
    member = tarfile.TarInfo(path)
    member.size, member.mtime = len(data), mtime
    for name, value in header.items():
        setattr(member, name, value)
    tar.addfile(member, io.BytesIO(data))

def sent(path, data, whole=True):
    emit("sent", sys.stderr, path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), whole=whole)

def stream():
    return tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT)
"""
"""What a scripted payload begins with: enough to speak the protocol, truly or not."""


@dataclass(frozen=True)
class Server:
    """A running SSH server, the HOME of whoever logs in there, and the laptop's files for it."""

    port: int
    user: str
    home: Path
    host_key: KeyPair
    folder: Path

    @property
    def target(self) -> SSHTarget:
        return SSHTarget(alias="run-1", address="127.0.0.1", port=self.port, user=self.user)

    @property
    def identity(self) -> Path:
        return self.folder / "id"

    def host(
        self,
        *,
        target: SSHTarget | None = None,
        public: str | None = None,
        identity: Path | None = None,
        quiet_s: float = 15,
        answer_within_s: float = 20,
    ) -> Host:
        """The host behind this server, or with another target, pinned key or key of the caller's."""
        target = target or self.target
        known = self.folder / f"known_hosts-{uuid.uuid4().hex}"
        known.write_text(render_known_hosts([target], public or self.host_key.public))
        return Host(
            target,
            identity_file=identity or self.identity,
            known_hosts_file=known,
            connect_timeout_s=5,
            quiet_s=quiet_s,
            answer_within_s=answer_within_s,
        )

    def program(self, source: str) -> None:
        """Puts a scripted payload on the host, as `host.pyz`."""
        place = self.home / "gpuctl" / "host.pyz"
        place.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("__main__.py", PRELUDE + textwrap.dedent(source))
        place.write_bytes(data.getvalue())

    def through(self, port: int) -> SSHTarget:
        """The same host, reached at another port."""
        return replace(self.target, port=port)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """One server of each kind, started when first asked for and ended with the session."""
    with ExitStack() as stack:
        started: dict[str, Server] = {}

        def start(kind: str) -> Server:
            if kind not in started:
                make = _embedded if kind == "embedded" else _openssh
                started[kind] = stack.enter_context(make(tmp_path_factory.mktemp(kind)))
            return started[kind]

        yield start


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Iterator[Server]:
    """A server whose HOME is empty of gpuctl."""
    found = servers(request.param)
    shutil.rmtree(found.home / "gpuctl", ignore_errors=True)
    yield found
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("gpuctl s")]
    assert not left, f"threads left on a session: {left}"


def _laptop(folder: Path) -> tuple[KeyPair, KeyPair]:
    host_key, caller = generate_key("host"), generate_key("caller")
    identity = folder / "id"
    identity.touch(mode=0o600)
    identity.write_text(caller.private)
    return host_key, caller


@contextmanager
def _embedded(folder: Path) -> Iterator[Server]:
    host_key, caller = _laptop(folder)
    admissions = ThreadingHTTPServer(("127.0.0.1", 0), _AdmitEverybody)
    threading.Thread(target=admissions.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{admissions.server_port}"
    text = user_data(
        run="run-1",
        deadline=datetime.now(timezone.utc) + timedelta(hours=2),
        keys=BootKeys(host_key.private, host_key.public, caller.public),
    )
    mark = f"i-remote{os.getpid():09x}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = {
            "instance_id": mark,
            "disk": str(folder / "disk"),
            "listen_fd": listener.fileno(),
            "admits_url": f"{url}/admits",
            "imds_url": f"{url}/imds",
            "user_data": text,
            "env": {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            "mark": mark,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuctl.embedded_cloud.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(listener.fileno(),),
        )
    assert process.stdin
    try:
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
        found = Server(port, "ubuntu", folder / "disk" / "home", host_key, folder)
        _until_up(found)
        yield found
    finally:
        process.stdin.close()
        process.wait(_START_S)
        admissions.shutdown()
        admissions.server_close()


class _AdmitEverybody(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def _openssh(folder: Path) -> Iterator[Server]:
    if _SSHD is None:
        pytest.skip("no sshd on PATH nor in GPUCTL_SSHD")
    host_key, caller = _laptop(folder)
    home = folder / "home"
    home.mkdir()
    key_file = folder / "host_key"
    key_file.touch(mode=0o600)
    key_file.write_text(host_key.private)
    (folder / "authorized").write_text(caller.public + "\n")
    port = free_port()
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {key_file}\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nSetEnv HOME={home} {MARK_VARIABLE}={folder}\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        found = Server(port, getpass.getuser() if os.geteuid() else "root", home, host_key, folder)
        _until_up(found)
        yield found
    finally:
        process.terminate()
        process.wait(_START_S)
        assert end_all(str(folder), root=None)  # sshd leaves to itself what a cut connection had started


def _until_up(server: Server) -> None:
    with server.host() as host:
        host.wait_until_reachable(time.monotonic() + _START_S)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Relay:
    """A way to a server that can be cut (a reset) or stalled (a link that swallows everything).

    `cut_after` bytes from the server it cuts itself; it resets each connection that has carried `reset_each` bytes.
    """

    def __init__(
        self, port: int, *, cut_after: int | None = None, reset_each: int | None = None, listen: int = 0
    ) -> None:
        self._target = port
        self._left = cut_after
        self._reset_each = reset_each
        self.resets = 0
        self._passing = threading.Event()
        self._passing.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.set()
        self._listener.close()
        self.cut()

    def stall(self) -> None:
        self._passing.clear()

    def cut(self) -> None:
        for sock in list(self._sockets):  # not those of who comes back meanwhile
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _reset(self, source: socket.socket, near: socket.socket) -> None:
        """The laptop's end hears a reset, as from a middlebox that forgot the connection."""
        self.resets += 1
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.shutdown(socket.SHUT_RD)  # whoever reads there closes it, and closed with nothing to linger it is reset

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            for source, sink, counted in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        carried = 0
        try:
            with source:
                while data := source.recv(65536):
                    carried += len(data)
                    if counted and self._reset_each is not None and carried > self._reset_each:
                        self._reset(source, sink)
                        return
                    self._passing.wait()
                    sink.sendall(data)
                    if counted and self._left is not None:
                        self._left -= len(data)
                        if self._left < 0:
                            self.cut()
                sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@pytest.fixture
def relay() -> Iterator[Callable[..., Relay]]:
    """Makes relays that end with the test."""
    with ExitStack() as stack:
        yield lambda port, **how: stack.enter_context(Relay(port, **how))
