"""A host of the embedded cloud as its cloud starts it: a process, its lifeline, a real server that admits callers."""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpuctl.core.boot import BootKeys, user_data

WAIT_S = 20.0


@dataclass(frozen=True)
class KeyPair:
    """An SSH key pair in OpenSSH's formats."""

    private: str
    public: str


def key_pair() -> KeyPair:
    """A new one."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private.decode(), public.decode())


class Admissions(ThreadingHTTPServer):
    """The cloud's answer to who may connect: 200 for `addresses`, 403 for all others."""

    daemon_threads = True

    def __init__(self) -> None:
        self.addresses = {"127.0.0.1"}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Admission)


class _Admission(BaseHTTPRequestHandler):
    server: Admissions

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        address = query["address"][0]
        self.server.asked.append(address)
        self.send_response(200 if address in self.server.addresses else 403)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@dataclass
class Host:
    """A host and what it has said. `process` is its first process; its standard input is the lifeline."""

    process: subprocess.Popen[bytes]
    port: int
    disk: Path
    mark: str
    host_key: KeyPair
    caller: KeyPair
    config: dict[str, Any]
    events: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)

    @property
    def home(self) -> Path:
        return self.disk / "home"

    def next_event(self, timeout_s: float = WAIT_S) -> dict[str, Any] | None:
        """The next line that the host prints; None at their end."""
        return self.events.get(timeout=timeout_s)

    def expect(self, name: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The next event, which must be this one."""
        event = self.next_event(timeout_s)
        assert event is not None, f"the host ended without {name}"
        assert event["event"] == name, event
        return event

    def connect(self, key: KeyPair | None = None, source: str = "127.0.0.1") -> paramiko.SSHClient:
        """A verified connection."""
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        kind, text = self.host_key.public.split()
        entry = paramiko.PKey.from_type_string(kind, base64.b64decode(text))
        client.get_host_keys().add(f"[127.0.0.1]:{self.port}", kind, entry)
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S, source_address=(source, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            client.connect(
                "127.0.0.1",
                self.port,
                username="ubuntu",
                pkey=_paramiko_key(key or self.caller),
                sock=sock,
                allow_agent=False,
                look_for_keys=False,
                banner_timeout=WAIT_S,
                auth_timeout=WAIT_S,
            )
        except BaseException:
            client.close()
            sock.close()
            raise
        return client

    def run(self, command: str, stdin: bytes = b"") -> tuple[int, str]:
        """Exit code and output (both streams, the error one last) of one command on a connection of its own."""
        with self.connect() as client:
            to, out, err = client.exec_command(command, timeout=WAIT_S)
            with suppress(OSError):  # a command may end, and its channel close, before it has read everything
                to.write(stdin)
                to.channel.shutdown_write()
            text = (out.read() + err.read()).decode()
            return out.channel.recv_exit_status(), text

    def ssh_config(self, folder: Path) -> Path:
        """A file for `ssh -F`, the host's name in it is `host`."""
        key = folder / "caller"
        key.write_text(self.caller.private)
        key.chmod(0o600)
        known = folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {self.host_key.public}\n")
        config = folder / "ssh_config"
        config.write_text(
            f"Host host\n HostName 127.0.0.1\n Port {self.port}\n User ubuntu\n IdentityFile {key}\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {known}\n StrictHostKeyChecking yes\n"
        )
        return config

    def processes(self) -> list[int]:
        """What runs with this host's mark in its environment, its second process included."""
        return carriers(self.mark)


def carriers(mark: str) -> list[int]:
    """The pids of processes whose environment carries the mark, found without gpuctl's own code."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"GPUCTL_HOST_MARK={mark}".encode() in environment:
                found.append(int(folder.name))
    return found


def told(pids: list[int]) -> list[str]:
    """What these processes are: state, parent and words, as far as they are there still."""
    found = subprocess.run(
        ["ps", "-o", "pid=,ppid=,stat=,args=", "-p", ",".join(map(str, pids))],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.splitlines()


def eventually(
    condition: Callable[[], Any], timeout_s: float = WAIT_S, *, telling: Callable[[], object] = lambda: ""
) -> Any:
    """Waits until the condition is truthy; answers it. `telling` is asked what there is instead, where it is not."""
    end = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"this did not come to pass in time {telling()}"
        time.sleep(0.02)
    return answer


class Hosts:
    """Starts hosts as the embedded cloud does, and lets go of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Host] = []
        self.admissions = Admissions()
        self._thread = threading.Thread(target=self.admissions.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def config(self, **changed: Any) -> dict[str, Any]:
        """What the cloud writes on the host's standard input."""
        instance_id = f"i-0{secrets.token_hex(8)}"
        return {
            "instance_id": instance_id,
            "disk": str(self._folder / instance_id),
            "admits_url": f"http://127.0.0.1:{self.admissions.server_port}/admits/{instance_id}",
            "imds_url": f"http://127.0.0.1:{self.admissions.server_port}/imds/{instance_id}",
            "env": {"PATH": os.environ["PATH"], "IMAGE_SAYS": "hello"},
            "mark": instance_id,
            **changed,
        }

    def start(
        self,
        *,
        bootcmd: list[Any] | None = None,
        lease_s: float = 3600,
        text: str | None = None,
        wait: bool = True,
    ) -> Host:
        """A host with gpuctl's own user-data; `bootcmd` in place of its, or any other `text`."""
        host_key, caller = key_pair(), key_pair()
        deadline = datetime.now(timezone.utc) + timedelta(seconds=lease_s)
        own = user_data(
            run="test-run", deadline=deadline, keys=BootKeys(host_key.private, host_key.public, caller.public)
        )
        if bootcmd is not None:
            own = "#cloud-config\n" + json.dumps({**json.loads(own.partition("\n")[2]), "bootcmd": bootcmd})
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        config = self.config(listen_fd=listener.fileno(), user_data=own if text is None else text)
        with listener:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpuctl.embedded_cloud.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                env={**os.environ, "AWS_SECRET_ACCESS_KEY": "the laptop's", "LAPTOP_SECRET": "the laptop's"},
            )
            port = listener.getsockname()[1]
        host = Host(process, port, Path(config["disk"]), config["mark"], host_key, caller, config)
        self.started.append(host)
        assert process.stdin
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
        threading.Thread(target=_read_events, args=(host,), daemon=True).start()
        if wait:
            host.expect("booted")
        return host

    def close(self) -> None:
        """Lets go of every host and sees that nothing is left of it."""
        self.admissions.shutdown()
        self._thread.join()
        self.admissions.server_close()
        for host in self.started:
            assert host.process.stdin and host.process.stdout
            host.process.stdin.close()
            try:
                host.process.wait(WAIT_S)
            finally:
                host.process.kill()
            eventually(lambda host=host: not host.processes(), telling=lambda host=host: told(host.processes()))
            eventually(lambda host=host: not list(Path("/tmp").glob(f"gpuctl-{host.mark[-8:]}-*")))


def _read_events(host: Host) -> None:
    assert host.process.stdout
    with host.process.stdout as stdout:
        for line in stdout:
            host.events.put(json.loads(line))
    host.events.put(None)


def _paramiko_key(pair: KeyPair) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))


@contextmanager
def starting(folder: Path) -> Iterator[Hosts]:
    """Hosts for the length of a block, with their disks in `folder`."""
    hosts = Hosts(folder)
    try:
        yield hosts
    finally:
        hosts.close()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Hosts for one test; at its end nothing of them may be left."""
    with starting(tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One booted host that a module's tests share."""
    with starting(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts.start()
