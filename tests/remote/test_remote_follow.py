"""Following a log: byte for byte, over broken connections, and never longer than the host is there."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable

import pytest
from remote_servers import Relay, Server

from gpuctl.core.errors import HostError, HostRefused, HostUnreachable
from gpuctl.core.host_state import HostState
from gpuctl.remote.follow import SILENCE_S, Alive, Differs, Ended, GpusSeen, LogChunk, MetricsChunk, follow

MakeRelay = Callable[..., Relay]


def test_a_log_and_its_metrics_come_to_their_end(server: Server) -> None:
    """Log and metrics come as bytes at their offsets, then the end with the run's state."""
    server.program("""
        assert verb == "follow" and request["until_end"] is True
        assert (request["log_offset"], request["metrics_offset"]) == (2, 0)
        emit("log", offset=2, data=base64.b64encode(b"\\x1b[2J\\xff").decode())
        emit("metrics", offset=0, data=base64.b64encode(b"{}\\n").decode())
        emit("alive")
        emit("gpus", gpus=[{"name": "Tesla\\x1b[2J T4", "utilization_percent": 97, "memory_used_mib": "no"}, "junk"])
        emit("gpus", gpus=7)
        emit("end", state={"state": "succeeded"})
    """)
    with server.host() as host:
        events = list(follow(host, log_offset=2, metrics_offset=0, until_end=True, gpus=True))
    assert events[:3] == [LogChunk(2, b"\x1b[2J\xff"), MetricsChunk(0, b"{}\n"), Alive()]
    seen, nothing, ended = events[3:]
    assert isinstance(seen, GpusSeen) and len(seen.gpus) == 1
    assert "T4" in seen.gpus[0].name and seen.gpus[0].name.isprintable()
    assert (seen.gpus[0].utilization_percent, seen.gpus[0].memory_used_mib) == (97, None)
    assert (nothing, ended) == (GpusSeen(()), Ended(HostState("succeeded")))


def test_a_long_line_of_an_earlier_payload_comes_in_pieces(server: Server) -> None:
    """It sent metrics lines of many MiB as one event: all of it comes, and what follows it."""
    server.program("""
        line = bytes(range(256)) * 25_000 + b"x"
        emit("metrics", offset=3, data=base64.b64encode(line).decode())
        emit("metrics", offset=3 + len(line), data=base64.b64encode(b"{}\\n").decode())
        emit("end", state={})
    """)
    with server.host() as host:
        *pieces, ended = follow(host, log_offset=0, metrics_offset=3, until_end=True)
    came, at = b"", 3
    for piece in pieces:
        assert isinstance(piece, MetricsChunk) and piece.offset == at
        came, at = came + piece.data, at + len(piece.data)
    assert came == bytes(range(256)) * 25_000 + b"x{}\n" and len(pieces) > 3
    assert isinstance(ended, Ended)


@pytest.mark.parametrize(("has", "does"), [(40_000_000, 'emit("alive")'), (0, "pass")], ids=["compares", "ends late"])
def test_a_host_that_compares_a_long_copy_is_waited_for(server: Server, has: int, does: str) -> None:
    """What the laptop has takes its time to compare; that all is sent is heard whenever it comes."""
    server.program(f"""
        for _ in range(10):
            {does}
            time.sleep(0.15)
        emit("end", state={{}})
    """)
    with server.host() as host:
        *_, ended = follow(host, log_offset=has, metrics_offset=0, until_end=False, log_sha256="1f", still_s=0.5)
    assert isinstance(ended, Ended)


def test_broken_connections_lose_and_double_nothing(server: Server, relay: MakeRelay) -> None:
    """A log that is followed over connections which break again and again comes out byte for byte."""
    content = random.Random(5).randbytes(600_000)
    server.program("""
        path, at = os.path.expanduser("~/gpuctl/log"), request["log_offset"]
        with open(path, "rb") as file:
            file.seek(at)
            while data := file.read(7_000):
                emit("log", offset=at, data=base64.b64encode(data).decode())
                at += len(data)
        emit("end", state={})
    """)
    (server.home / "gpuctl" / "log").write_bytes(content)
    got, breaks, ended = b"", 0, False
    while not ended:
        link = relay(server.port, cut_after=200_000)
        with contextlib.suppress(HostUnreachable), server.host(target=server.through(link.port)) as host:
            for event in follow(host, log_offset=len(got), metrics_offset=0, until_end=True):
                if isinstance(event, LogChunk):
                    assert event.offset == len(got)
                    got += event.data
                ended = isinstance(event, Ended)
        breaks += not ended
    assert got == content
    assert breaks >= 3


def test_bytes_that_are_home_already_are_not_given_again(server: Server) -> None:
    """A host that sends from before the offset is cut to what is new."""
    server.program("""
        for offset in (2, 3, 3, 5):
            emit("log", offset=offset, data=base64.b64encode(b"abcdefgh"[offset : offset + 3]).decode())
        emit("end", state={})
    """)
    with server.host() as host:
        *chunks, _ = follow(host, log_offset=4, metrics_offset=0, until_end=False)
    assert chunks == [LogChunk(4, b"e"), LogChunk(5, b"f"), LogChunk(6, b"gh")]


def test_a_log_that_was_begun_anew_is_told_by_its_offset(server: Server) -> None:
    """Where the log is shorter than what is home of it, it comes again from 0."""
    server.program("""
        emit("log", offset=0, data=base64.b64encode(b"new").decode())
        emit("log", offset=3, data=base64.b64encode(b"er").decode())
        emit("end", state={})
    """)
    with server.host() as host:
        *chunks, _ = follow(host, log_offset=1000, metrics_offset=0, until_end=False)
    assert chunks == [LogChunk(0, b"new"), LogChunk(3, b"er")]


def test_a_copy_that_differs_is_told_before_the_file_from_its_start(server: Server) -> None:
    """The hashes go to the host; after `differs` the bytes from 0 are no gap and no other file."""
    server.program("""
        assert request["log_sha256"] == "1f" and request["metrics_sha256"] is None
        emit("differs", file="log")
        emit("log", offset=0, data=base64.b64encode(b"all").decode())
        emit("differs", file="/etc/passwd")
        emit("end", state={})
    """)
    with server.host() as host:
        *events, _ = follow(host, log_offset=1000, metrics_offset=0, until_end=False, log_sha256="1f")
    assert events == [Differs("log"), LogChunk(0, b"all")]


@pytest.mark.parametrize(
    "event",
    [
        'emit("log", offset=9, data="")',
        'emit("log", offset=-1, data="")',
        'emit("log", offset=True, data="")',
        'emit("log", offset=0, data="?")',
        'emit("log", data="")',
        'emit("metrics", offset="0", data=5)',
        'emit("differs", file=["log"])',
        "pass",
    ],
)
def test_a_log_that_makes_no_sense_is_an_error(server: Server, event: str) -> None:
    """A gap, a wrong type, no base64 or no end at all ends the following with one line that names the host."""
    server.program(event)
    with server.host() as host, pytest.raises(HostError, match="run-1"):
        list(follow(host, log_offset=0, metrics_offset=0, until_end=True))


def test_what_the_host_refuses_is_told(server: Server) -> None:
    """An error event is told as the host's refusal."""
    server.program('emit("error", message="no run here", next=None); sys.exit(1)')
    with server.host() as host, pytest.raises(HostRefused, match="no run here"):
        list(follow(host, log_offset=0, metrics_offset=0, until_end=True))


def test_a_silent_host_is_unreachable(server: Server) -> None:
    """A host that says nothing for the silence that is allowed does not answer, though its connection stands."""
    server.program("""
        emit("alive")
        while True:
            sys.stdout.write(" ")
            sys.stdout.flush()
            time.sleep(0.05)
    """)
    began = time.monotonic()
    with server.host() as host, pytest.raises(HostUnreachable, match="in time"):
        list(follow(host, log_offset=0, metrics_offset=0, until_end=True, silence_s=1))
    assert 1 <= time.monotonic() - began < SILENCE_S


def test_ctrl_c_while_following_ends_the_command_there_and_keeps_the_connection(server: Server) -> None:
    """An interrupt in whoever follows closes the channel: the host's command ends, the next call works at once."""
    server.program("""
        if verb == "state":
            emit("state", state="running")
            sys.exit()
        emit("log", offset=0, data=base64.b64encode(str(os.getpid()).encode()).decode())
        while True:
            emit("alive")
            time.sleep(0.05)
    """)
    pid = 0
    with server.host() as host:
        with (
            pytest.raises(KeyboardInterrupt),
            contextlib.closing(follow(host, log_offset=0, metrics_offset=0, until_end=True)) as events,
        ):
            for event in events:
                if isinstance(event, LogChunk):
                    pid = int(event.data)
                else:
                    raise KeyboardInterrupt
        assert host.call("state", {})["state"] == "running"
        end = time.monotonic() + 10
        while _lives(pid):
            assert time.monotonic() < end, "the command on the host goes on"
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
