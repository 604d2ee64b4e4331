"""What a host says: its log, its losses, its state, its listing, its streams, its SSH."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

import paramiko
from fuzzing import Parser, Read, Stranger, pieces, plain

from gpuctl.core.codec import dumps
from gpuctl.core.errors import HostUnreachable
from gpuctl.core.hosts import SSHTarget
from gpuctl.core.losses.points import Point, point_row
from gpuctl.core.losses.reader import LogLine, LossReader
from gpuctl.core.losses.sources import MetricsSource
from gpuctl.core.outputs import described
from gpuctl.remote.follow import LogChunk, MetricsChunk, follow
from gpuctl.remote.host import Host
from gpuctl.remote.keys import generate_key
from gpuctl.remote.protocol import Patience
from gpuctl.remote.pull import pull_outputs
from gpuctl.remote.session import Session
from gpuctl.remote.ssh_config import render_known_hosts
from gpuctl.remote.training import training_state
from gpuctl.ui.metrics import points_table
from gpuctl.ui.plot import plot
from gpuctl.workflows.hints import missing_module

CAPTURED = Path(__file__).parents[1] / "core" / "captured"
LOG = (CAPTURED / "nanogpt.txt").read_bytes()
LOGS = tuple((CAPTURED / name).read_bytes()[-6000:] for name in sorted(p.name for p in CAPTURED.glob("*.txt")))
OWN = r"(?P<split>\w*) ?(?i:loss)\W+(?P<loss>\d\.\d+|nan)(?:.*?(?P<step>\d+))?(?:.*(?P<epoch>\S+))?"
GOOD = b"good"


def _look_at_points(points: list[Point]) -> None:
    for one in points:
        json.dumps(point_row(one), allow_nan=False)
    some = points[:200]
    plot(some, width=60, height=15)
    points_table(some)


def _look_at_lines(lines: list[LogLine]) -> None:
    for line in lines:
        assert line.text.replace("\t", " ").isprintable() or not set(line.text) & set("\n\r\x1b\x07\u202e")
        assert all(0 <= start <= end <= len(line.text) for start, end in line.spans)
    _look_at_points([point for line in lines for point in line.points])


def _log(pattern: str | None) -> Read:
    def read(data: bytes) -> None:
        reader, lines = LossReader(pattern), list[LogLine]()
        for piece in pieces(data):
            lines += reader.feed(piece)
            assert "\x1b" not in reader.partial
        _look_at_lines(lines + reader.finish())
        LossReader(pattern).skim(data)
        missing_module(data[-8192:])

    return read


def _metrics(data: bytes) -> None:
    source = MetricsSource()
    for piece in pieces(data):
        source.feed(piece)
    _look_at_points(source.points)


class _Channel:
    """A command on a host that has said all that it will."""

    closed, exit_status = False, 0

    def __init__(self, stdout: bytes, stderr: bytes) -> None:
        self._stdout, self._stderr = io.BytesIO(stdout), io.BytesIO(stderr)
        self.status_event = threading.Event()
        self.status_event.set()

    def settimeout(self, _: float) -> None: ...

    def recv(self, size: int) -> bytes:
        return self._stdout.read(size)

    def recv_stderr(self, size: int) -> bytes:
        return self._stderr.read(size)

    def send(self, piece: bytes) -> int:
        return len(piece)

    def shutdown_write(self) -> None: ...

    def close(self) -> None: ...

    def get_transport(self) -> _Channel:
        return self

    def is_active(self) -> bool:
        return True


class Replayed(Host):
    """A host whose answers, by verb, are known bytes: standard output, and standard error."""

    def __init__(self, answers: Mapping[str, tuple[bytes, bytes]]) -> None:
        nowhere = Path("/nonexistent")
        super().__init__(SSHTarget("run-1", "127.0.0.1", 22, "ubuntu"), identity_file=nowhere, known_hosts_file=nowhere)
        self._answers = answers

    def _session(self, line: str, patience: Patience) -> Session:
        channel = _Channel(*self._answers.get(line.split()[-1], (b"", b"")))
        return Session(cast(Any, channel), name=self.name, alive=lambda: True, total_s=60, silence_s=60)

    def wait_until_reachable(self, *_: Any, **__: Any) -> None:
        raise HostUnreachable("it is gone")


def event(name: str, **fields: Any) -> bytes:
    return json.dumps({"event": name, **fields}).encode() + b"\n"


STATE: dict[str, Any] = {
    "attempt": 1,
    "state": "failed",
    "exit_code": 137,
    "why": "out of memory",
    "started": 1.7e9,
    "ended": 1.7e9 + 9,
    "provisioned": True,
    "log_bytes": 10,
    "deadline": 1.8e9,
    "power_off_at": 1.7e9 + 60,
    "receipt": None,
    "gpus": [{"name": "L4", "utilization_percent": 3, "memory_used_mib": 1, "memory_total_mib": 23034}],
}


def _state(data: bytes) -> None:
    state = training_state(Replayed({"state": (data, b"Traceback: x\n")}))
    dumps(state)
    assert (state.why or "").isprintable() and all(gpu.name.isprintable() for gpu in state.gpus)
    assert abs(state.ran_s or 0) < 10**11


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


FOLLOWED = (
    event("differs", file="metrics") + event("log", offset=0, data=_encoded(LOG[:700]))
    + event("metrics", offset=0, data=_encoded(b'{"step": 1, "train_loss": 0.5}\n')) + event("alive")
    + event("gpus", gpus=STATE["gpus"]) + event("log", offset=700, data=_encoded(LOG[700:1400]))
    + event("end", state=STATE)
)  # fmt: skip


def _follow(data: bytes) -> None:
    host, reader, metrics = Replayed({"follow": (data, b"")}), LossReader(), MetricsSource()
    for one in follow(host, log_offset=0, metrics_offset=3, until_end=True, metrics_sha256="1f"):
        if isinstance(one, LogChunk):
            reader.feed(one.data)
        elif isinstance(one, MetricsChunk):
            metrics.feed(one.data)


def _listed(path: str, size: int = len(GOOD)) -> bytes:
    return event("file", path=path, size=size, mtime_ns=1_000_000_000, inode=1, complete=True)


def _sent(path: str) -> bytes:
    return event("sent", path=path, size=len(GOOD), sha256=hashlib.sha256(GOOD).hexdigest(), whole=True)


NAMES = ("a", "outputs/b", "gpuctl/log")
MANIFEST = (
    b"".join(map(_listed, NAMES)) + event("alive") + event("link", path="outputs/latest", to="outputs/b")
    + event("skipped", path="data/", kind="large", why="more than 2 GB", files=12, bytes=10**10)
    + event("missing", path="best.pt") + event("manifest", files=3, bytes=12, state=STATE)
)  # fmt: skip
WORDS = b"".join(map(_sent, NAMES)) + event("skipped", path="c", kind="x", why="gone") + event("done", files=3)


def _tar(form: int, **headers: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in (*NAMES, "d/" * 60 + "é"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(GOOD), 1
            member.pax_headers = headers
            tar.addfile(member, io.BytesIO(GOOD))
    return buffer.getvalue()


TARS = (
    _tar(tarfile.PAX_FORMAT),
    _tar(tarfile.PAX_FORMAT, mtime="1.000000001", comment="x", size="4"),
    _tar(tarfile.GNU_FORMAT),
)


def _pull(**spoilt: str) -> Any:
    """A pull of which one part is what is tried: `manifest`, the `tar` stream, the `words` beside it."""
    (part,) = spoilt

    def opened(folder: Path, stack: ExitStack) -> Read:
        home = folder / "home"

        def read(data: bytes) -> None:
            said = {"manifest": MANIFEST, "tar": TARS[0], "words": WORDS, part: data}
            host = Replayed({
                "manifest": (said["manifest"], b""), "send": (said["tar"], said["words"]),
                "receipt": (event("receipt"), b""),
            })  # fmt: skip
            clock = count(0, 5.0)
            try:
                done = pull_outputs(host, home, {}, pause=lambda s: None, clock=lambda: next(clock), back_within_s=0)
                assert all(described(one).isprintable() for one in done.left)
                dumps(done.known)
            finally:
                assert [path.name for path in folder.iterdir() if path.name != "home"] == []
                for path in home.rglob("*"):
                    assert path.resolve().is_relative_to(home.resolve()), path
                shutil.rmtree(home, ignore_errors=True)

        return read

    return opened


def _recorded_handshake(key: paramiko.PKey) -> bytes:
    """What an SSH server says until the key exchange is over."""
    near, far = socket.socketpair()
    inner, outer = socket.socketpair()
    said = bytearray()

    def carry(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if kept is not None:
                    kept += data
                sink.sendall(data)

    for words in ((far, inner, None), (inner, far, said)):
        threading.Thread(target=carry, args=words, daemon=True).start()
    server, client = paramiko.Transport(outer), paramiko.Transport(near)
    server.add_server_key(key)
    server.start_server(event=threading.Event(), server=paramiko.ServerInterface())
    client.start_client(timeout=30)
    whole = bytes(said)
    for one in (client, server):
        one.close()
    for sock in (near, far, inner, outer):
        sock.close()
    return whole


def _ssh(folder: Path, stack: ExitStack) -> Read:
    caller = generate_key("caller")
    server = Stranger(stack)
    target = SSHTarget("run-1", "127.0.0.1", server.port, "ubuntu")
    (folder / "id").write_text(caller.private)
    (folder / "known").write_text(render_known_hosts([target], HOST_KEY.public))

    def read(data: bytes) -> None:
        server.says = data
        began = time.monotonic()
        with Host(target, identity_file=folder / "id", known_hosts_file=folder / "known") as host:
            try:
                host.connect(timeout_s=2)
            finally:
                assert time.monotonic() - began < 30

    return read


HOST_KEY = generate_key("host")


def _handshakes() -> tuple[bytes, ...]:
    whole = _recorded_handshake(paramiko.Ed25519Key.from_private_key(io.StringIO(HOST_KEY.private)))
    return whole, whole[:1200]


def parsers() -> tuple[Parser, ...]:
    """One row a border."""
    return (
        Parser("a log", LOGS, plain(_log(None)), ()),
        Parser("a log by a job's own pattern", LOGS, plain(_log(OWN)), ()),
        Parser("metrics", METRICS, plain(_metrics), ()),
        Parser("a host's state", (event("state", **STATE),), plain(_state)),
        Parser("what is followed", (FOLLOWED,), plain(_follow)),
        Parser("a listing of outputs", (MANIFEST,), _pull(manifest="")),
        Parser("a tar stream", TARS, _pull(tar="")),
        Parser("the words beside a tar stream", (WORDS,), _pull(words="")),
        Parser("an SSH handshake", _handshakes(), _ssh, good=False),
    )


METRICS = (
    b'{"step": 1, "epoch": 0.5, "train_loss": 2.5, "time": "2026-11-25T02:30:00Z"}\n' * 3,
    b'{"step": 20, "loss": 0.25, "split": "val", "time": 1700000000.5}\n{"loss": null, "nonfinite": "nan"}\n',
    b'{"loss": "1e-3", "split": "test"}\n{"eval_loss": 3, "dev_loss": "inf"}\n',
)
