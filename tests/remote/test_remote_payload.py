"""The payload's client against the payload itself: what the two sides agree on, tried from end to end."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from remote_servers import Relay, Server

from gpuctl.core.errors import HostRefused, HostUnreachable
from gpuctl.remote.follow import Ended, LogChunk, MetricsChunk, follow
from gpuctl.remote.host import Host
from gpuctl.remote.payload import build_payload
from gpuctl.remote.pull import pull_outputs

MakeRelay = Callable[..., Relay]

SOURCE = Path(__file__).parents[2] / "provisioning"


@pytest.fixture
def host(server: Server) -> Iterator[Host]:
    """A host that has the payload, and a workspace with nothing in it."""
    with server.host() as host:
        host.put_payload(build_payload(SOURCE))
        _place(server, "run/1").mkdir(parents=True)
        _place(server, "work/outputs").mkdir(parents=True)
        yield host


def _place(server: Server, name: str) -> Path:
    return server.home / "gpuctl" / name


def _end(server: Server) -> None:
    ended = {"state": "succeeded", "exit_code": 0, "ended": time.time()}
    aside = _place(server, "run/1/exit.json.new")
    aside.write_text(json.dumps(ended))
    aside.rename(_place(server, "run/1/exit.json"))


@contextlib.contextmanager
def _running(server: Server) -> Iterator[None]:
    """A run that goes on, as the payload sees it: its supervisor's lock is held."""
    _place(server, "run/1/state.json").write_text(json.dumps({"state": "running", "started": 1.0, "pid": 1, "pgid": 1}))
    with _place(server, "run/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_host_tells_its_state(server: Server, host: Host) -> None:
    """The state of a host on which nothing has been started is none, and of an ended run how it ended."""
    assert host.call("state", {})["state"] == "none"
    _end(server)
    assert host.call("state", {})["state"] == "succeeded"


def test_what_the_payload_refuses_is_told(host: Host) -> None:
    """A verb that the payload does not know is refused in its own words."""
    with pytest.raises(HostRefused, match="one verb"):
        host.call("explode", {})


def test_five_thousand_small_files_come_in_one_stream(server: Server, host: Host, tmp_path: Path) -> None:
    """5,000 small files are home after one manifest and one stream, and a second pull finds nothing to move."""
    outputs = _place(server, "work/outputs")
    files = {f"outputs/d{number % 50}/f{number}": b"x" * (number % 4096) for number in range(5_000)}
    for name, data in files.items():
        (outputs / name.split("/")[1]).mkdir(exist_ok=True)
        (outputs.parent / name).write_bytes(data)
    _end(server)
    began = time.monotonic()
    first = pull_outputs(host, tmp_path, {})
    middle = time.monotonic()
    second = pull_outputs(host, tmp_path, first.known)
    print(f"5,000 files: {middle - began:.2f} s, nothing changed: {time.monotonic() - middle:.2f} s")
    assert {name: (tmp_path / name).read_bytes() for name in first.files} == files
    assert (second.files, second.unchanged, second.bytes_moved) == ((), 5_000, 0)
    assert first.complete and middle - began < 120


def test_odd_names_and_traps_on_the_host(server: Server, host: Host, tmp_path: Path) -> None:
    """Names come home byte for byte; links and pipes among the outputs are named and do not come."""
    outputs = os.fsencode(_place(server, "work/outputs"))
    names = [b"a\nb", b"-rf", b"$(reboot)", b"\xff\xfe", "caf\u00e9".encode(), b"'\"\\ ", b"x" * 255]
    for name in names:
        with open(outputs + b"/" + name, "wb") as file:
            file.write(name)
    os.symlink("/etc/passwd", outputs + b"/link")
    os.symlink("..", outputs + b"/up")
    os.mkfifo(outputs + b"/pipe")
    _end(server)
    result = pull_outputs(host, tmp_path, {})
    home = {name: (Path(os.fsdecode(os.fsencode(tmp_path) + b"/outputs/" + name))).read_bytes() for name in names}
    assert home == {name: name for name in names}
    assert sorted(os.listdir(os.fsencode(tmp_path / "outputs"))) == sorted(names)
    assert {name for name, _ in result.skipped} == {"outputs/link", "outputs/up", "outputs/pipe"}
    assert result.complete


def test_files_that_are_being_written_come_home_whole(server: Server, host: Host, tmp_path: Path) -> None:
    """While files are rewritten, by renaming and in place, each one at home is whole; at the end all are home."""
    outputs = _place(server, "work/outputs")
    stop = threading.Event()
    writer = threading.Thread(target=_write_for_ever, args=(outputs, stop))
    with _running(server):
        writer.start()
        try:
            time.sleep(2.5)
            first = pull_outputs(host, tmp_path, {})
            checked = _check(tmp_path / "outputs")
        finally:
            stop.set()
            writer.join()
    _end(server)
    last = pull_outputs(host, tmp_path, first.known)
    assert first.incomplete and not first.complete
    assert checked >= 10
    assert _check(tmp_path / "outputs") == 41
    assert last.complete


def _write_for_ever(folder: Path, stop: threading.Event) -> None:
    """Ten files that stay, thirty that are renamed into place anew and anew, one that is rewritten in place."""
    rng = random.Random(1)
    for number in range(10):
        (folder / f"stays-{number}").write_bytes(_signed(rng))
    while not stop.is_set():
        for number in range(30):
            aside = folder.parent / "aside"
            aside.write_bytes(_signed(rng))
            aside.rename(folder / f"renamed-{number}")
        with (folder / "in-place").open("wb", buffering=0) as file:
            data = _signed(rng)
            for start in range(0, len(data), 5_000):
                file.write(data[start : start + 5_000])
                time.sleep(0.002)


def _signed(rng: random.Random) -> bytes:
    data = rng.randbytes(rng.randrange(1_000, 100_000))
    return hashlib.sha256(data).digest() + data


def _check(folder: Path) -> int:
    for path in folder.iterdir():
        data = path.read_bytes()
        assert hashlib.sha256(data[32:]).digest() == data[:32], path
    return len(list(folder.iterdir()))


def test_a_growing_log_is_followed_over_broken_connections(server: Server, host: Host, relay: MakeRelay) -> None:
    """Log and metrics of a run that goes on come out byte for byte though the connection breaks again and again."""
    log, metrics = _place(server, "run/log"), _place(server, "run/metrics.jsonl")
    content = random.Random(7).randbytes(400_000)
    lines = b"".join(json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in range(2_000))
    writer = threading.Thread(target=_grow, args=(server, {log: content, metrics: lines}))
    got = {LogChunk: b"", MetricsChunk: b""}
    ended = None
    with _running(server):
        writer.start()
        try:
            while ended is None:
                link = relay(server.port, cut_after=150_000)
                with contextlib.suppress(HostUnreachable), server.host(target=server.through(link.port)) as cut:
                    offsets = {"log_offset": len(got[LogChunk]), "metrics_offset": len(got[MetricsChunk])}
                    for event in follow(cut, **offsets, until_end=True):
                        if isinstance(event, (LogChunk, MetricsChunk)):
                            assert event.offset == len(got[type(event)])
                            got[type(event)] += event.data
                        elif isinstance(event, Ended):
                            ended = event
        finally:
            writer.join()
    assert got == {LogChunk: content, MetricsChunk: lines}
    assert ended.state.training == "succeeded"


def _grow(server: Server, files: dict[Path, bytes]) -> None:
    for piece in range(100):
        for path, data in files.items():
            size = len(data) // 100 + 1
            with path.open("ab") as file:
                file.write(data[piece * size : (piece + 1) * size])
        time.sleep(0.02)
    _end(server)
