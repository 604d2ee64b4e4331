"""Hosts that mean harm: they get the run's key and nothing else, no more time or memory than their answer is worth, and
whatever they send ends in one line."""

from __future__ import annotations

import builtins
import getpass
import io
import itertools
import random
import socket
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hostile_servers import Interface, Mute, Talk, flood, junk, listening, mangled, ssh_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from remote_servers import Server
from test_remote_pull import _pull, _resident

from gpuctl.core.codec import dumps
from gpuctl.core.errors import GpuctlError, HostError, HostUnreachable
from gpuctl.core.host_state import parse_gpus, parse_host_state
from gpuctl.core.losses.sources import MetricsSource
from gpuctl.core.text import safe
from gpuctl.remote import protocol, tarstream
from gpuctl.remote.follow import follow
from gpuctl.remote.manifest import Manifest
from gpuctl.remote.protocol import Patience, parse_event
from gpuctl.remote.session import HostSilent, Session
from gpuctl.remote.tarstream import BoundedReader, NoTarStream, members
from gpuctl.remote.training import start_training, stop_training, training_state
from gpuctl.state.runs import RunFolder
from gpuctl.workflows.down import OFFER_AFTER_S, offering_discard
from gpuctl.workflows.follow import Follower
from gpuctl.workflows.hosts import RunHandle
from tests.reporters import Notes

MB = 1024 * 1024
BUDGET = 200 * MB
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("methods", ["keyboard-interactive", "password", "password,keyboard-interactive,publickey"])
def test_a_host_gets_a_signature_and_nothing_else(
    server: Server, methods: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that takes the key for half of what it wants is refused: nobody is asked, nothing more is sent."""
    typed: list[object] = []
    for module, name in ((builtins, "input"), (getpass, "getpass")):
        monkeypatch.setattr(module, name, lambda *asked: typed.append(asked) or "secret")
    interface = Interface(partial=methods)
    with (
        ssh_server(server, interface) as port,
        server.host(target=server.through(port)) as host,
        pytest.raises(HostError, match="asks for a password") as caught,
    ):
        host.wait_until_reachable(time.monotonic() + 60)
    assert (interface.asked, typed) == ([], [])
    assert str(caught.value).isprintable()


def test_a_host_that_never_answers_exec_is_given_up(server: Server) -> None:
    """It takes the key, opens a channel, answers keep-alives, and says nothing of the command."""
    with (
        ssh_server(server, Interface(), Mute) as port,
        server.host(target=server.through(port), answer_within_s=1) as host,
    ):
        began = time.monotonic()
        with pytest.raises(HostUnreachable, match="does not answer"):
            host.call("state", {})
        assert time.monotonic() - began < 20
        assert host.alive()


def test_a_host_that_answers_ssh_and_nothing_else_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No question waits on a host for as long as SSH lives: each verb has its time."""
    monkeypatch.setattr(protocol, "ONE_ANSWER", Patience(1, 1))
    monkeypatch.setattr("gpuctl.remote.host.ONE_ANSWER", Patience(1, 1))
    for verb in protocol.PATIENCE:
        monkeypatch.setitem(protocol.PATIENCE, verb, Patience(60, 1))
    server.program("time.sleep(60)")
    with server.host() as host:
        for verb in ("state", "start", "receipt", "manifest", "provision"):
            began = time.monotonic()
            with pytest.raises(HostSilent, match="in time"):
                host.call(verb, {})
            assert time.monotonic() - began < 20


class _Stopped:
    """A channel on which the laptop is stopped for a minute while it waits, before the host's answer is seen."""

    def __init__(self, clock: list[float], pauses: int) -> None:
        self._clock, self._pauses = clock, pauses

    def settimeout(self, _: float) -> None:
        """As a channel has it."""

    def recv(self, _: int) -> bytes:
        self._pauses -= 1
        if self._pauses >= 0:
            self._clock[0] += 60
            raise TimeoutError
        return b'{"event": "state"}\n'


@pytest.mark.parametrize(("total_s", "silence_s"), [(30, 30), (300, 3), (3, 3), (1, 1)])
def test_a_laptop_that_was_stopped_takes_no_host_for_silent(
    monkeypatch: pytest.MonkeyPatch, total_s: float, silence_s: float
) -> None:
    """Ctrl-Z and a closed lid are no silence of the host's: it is listened to once more in any case."""
    clock = [0.0]
    monkeypatch.setattr("gpuctl.remote.session.time.monotonic", lambda: clock[0])

    def session(pauses: int) -> Session:
        channel = cast(Any, _Stopped(clock, pauses))
        return Session(channel, name="run-1", alive=lambda: True, total_s=total_s, silence_s=silence_s)

    assert session(1).read() == b'{"event": "state"}\n'
    with pytest.raises(HostSilent):
        session(1000).read()


def test_every_question_has_its_time() -> None:
    """None is waited for without end, and what has one answer not for long."""
    assert protocol.ONE_ANSWER.total_s <= 30
    assert all(one.total_s < float("inf") and one.silence_s <= one.total_s for one in protocol.PATIENCE.values())


def test_a_listing_that_says_it_is_alive_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that looks through very many files has nothing to list for longer than it may be silent."""
    monkeypatch.setitem(protocol.PATIENCE, "manifest", Patience(60, 2))
    server.program("""
        if verb == "manifest":
            for _ in range(15):
                emit("alive")
                time.sleep(0.2)
            manifested(0)
        if verb == "receipt":
            emit("receipt")
    """)
    assert _pull(server, tmp_path).files == ()


@pytest.mark.parametrize(
    "ask",
    [training_state, start_training, lambda host: stop_training(host, grace_s=20)],
    ids=["state", "start", "stop"],
)
def test_a_question_that_has_one_answer_gets_no_endless_one(server: Server, ask: Callable[..., object]) -> None:
    """A host that answers for ever is stopped, though every event is a good one."""
    server.program("""
        while True:
            emit("state", state="running")
    """)
    began = time.monotonic()
    with server.host() as host, pytest.raises(HostError, match="endless answer"):
        ask(host)
    assert time.monotonic() - began < 20


def test_a_listing_of_one_name_for_ever_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a list does not grow makes it no shorter."""
    monkeypatch.setattr("gpuctl.remote.manifest.MOST_FILES", 2_000)
    server.program("""
        while verb == "manifest":
            listed("", b"")
        emit("state", state="running")
    """)
    with pytest.raises(HostError, match="more than"):
        _pull(server, tmp_path)


@pytest.mark.parametrize(
    "event",
    [
        'emit("alive")',
        'emit("gpus", gpus=[])',
        'emit("log", offset=0, data="")',
        'emit("differs", file="log")',
        'emit("differs", file="log"); emit("log", offset=0, data=base64.b64encode(b"x").decode())',
    ],
)
def test_what_there_is_of_a_log_comes_to_an_end(server: Server, event: str) -> None:
    """A host that is asked for what there is and never comes to it is given up, however lively it is."""
    server.program(f"""
        while True:
            {event}
            time.sleep(0.01)
    """)
    began = time.monotonic()
    with server.host() as host, pytest.raises(HostError, match=r"in time|keeps comparing"):
        list(follow(host, log_offset=5, metrics_offset=0, until_end=False, log_sha256="1f", still_s=1))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "send",
    [
        'tar = stream()\nfor n in range(10**9): packed(tar, f"other{n}", bytes(100_000))',
        'with stream() as tar: packed(tar, "a", b"good")\nsent("a", b"good")\n'
        "while True: sys.stdout.buffer.write(bytes(65536))",
        'for n in range(10**9): sent("a", b"other")',
    ],
    ids=["members", "zeros", "words"],
)
def test_a_stream_that_goes_on_for_ever_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: str
) -> None:
    """A host sends what it was asked for and not much else."""
    monkeypatch.setattr(tarstream, "MOST_UNASKED", MB)
    indented = send.replace("\n", "\n            ")
    server.program(f"""
        if verb == "manifest":
            listed("a", b"good")
            manifested(1)
        if verb == "send":
            {indented}
    """)
    with pytest.raises(HostError, match=r"than it was asked for"):
        _pull(server, tmp_path)


@pytest.mark.parametrize("tells", [True, False], ids=["settles", "never settles"])
def test_a_file_that_has_become_much_larger_is_one_that_changed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    """It was small when it was listed: what came before it is home, and the rest comes once its size is known."""
    monkeypatch.setattr(tarstream, "MOST_UNASKED", MB)
    server.program(f"""
        files = {{"before": b"good", "grown": bytes(5_000_000), "late": b"good"}}
        asked = os.path.expanduser("~/gpuctl/asked")
        if verb == "manifest":
            small = not os.path.exists(asked) or not {tells}
            open(asked, "w").close()
            for path, data in files.items():
                listed(path, data[:4] if small else data)
            manifested(3)
        if verb == "send":
            with stream() as tar:
                for path in request["paths"]:
                    packed(tar, path, files[path])
                    sent(path, files[path])
            emit("done", sys.stderr, files=3)
        if verb == "receipt":
            emit("receipt")
    """)
    result = _pull(server, tmp_path)
    assert result.complete is tells and "before" in result.files
    assert (tmp_path / "grown").exists() is tells and ("grown" in result.incomplete) is not tells


def test_a_host_that_installs_for_long_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it is alive, which is nothing that a person is shown."""
    monkeypatch.setitem(protocol.PATIENCE, "provision", Patience(60, 2))
    server.program("""
        for _ in range(15):
            emit("alive")
            time.sleep(0.2)
        emit("provisioned")
    """)
    with server.host() as host:
        assert host.call("provision", {})["event"] == "provisioned"


def test_a_stream_that_stands_still_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host answers SSH, has sent the beginning of a file, and a byte now and then is not going on."""
    monkeypatch.setattr("gpuctl.remote.host._SENDING", Patience(float("inf"), 1))
    server.program("""
        if verb == "manifest":
            listed("a", b"good")
            manifested(1)
        if verb == "send":
            while True:
                sys.stdout.write("a")
                sys.stdout.flush()
                time.sleep(0.05)
    """)
    began = time.monotonic()
    with pytest.raises(HostSilent, match="in time"):
        _pull(server, tmp_path)
    assert time.monotonic() - began < 20


class _Peak:
    """The most memory that this process had while the block ran, beside what it had before."""

    def __enter__(self) -> _Peak:
        self._before = self.most = _resident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, _resident())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self.most - self._before


def _endless(first: bytes, more: bytes) -> Talk:
    def talk(peer: socket.socket) -> None:
        peer.sendall(first)
        for _ in itertools.repeat(None):
            peer.sendall(more)

    return talk


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"SSH-2.0-x\r\n" + (2**31 + 4).to_bytes(4, "big"), bytes(MB)),
        (b"SSH-2.0-x\r\n" + (2**32 - 4).to_bytes(4, "big"), bytes(MB)),
        (b"SSH-2.0-", b"x" * MB),
        (b"", b"hello\r\n" * 10_000),
    ],
    ids=["2 GiB packet", "4 GiB packet", "greeting", "greetings"],
)
def test_what_a_stranger_says_is_bounded(server: Server, first: bytes, more: bytes) -> None:
    """Before anybody knows who speaks, neither a packet nor a greeting is as long as the speaker likes."""
    began = time.monotonic()
    with (
        listening(_endless(first, more)) as port,
        _Peak() as memory,
        server.host(target=server.through(port)) as host,
        pytest.raises(HostUnreachable),
    ):
        host.connect(timeout_s=5)
    assert memory.grown < 32 * MB and time.monotonic() - began < 20


def test_a_host_that_ignores_the_window_fills_no_memory(server: Server) -> None:
    """What comes beyond what the laptop has room for ends the connection."""
    with (
        ssh_server(server, Interface(on_exec=flood)) as port,
        server.host(target=server.through(port)) as host,
        _Peak() as memory,
        host.stream("send", {}) as streams,
    ):
        end = time.monotonic() + 20
        while host._link is not None and host._link.active and time.monotonic() < end:
            time.sleep(0.05)
        assert host._link is not None and not host._link.active
        with pytest.raises(HostUnreachable):
            while streams.stdout.read():
                pass
            streams.session.exit_status()
    assert memory.grown < 100 * MB


@pytest.mark.parametrize(
    "event",
    [
        'emit("sent", sys.stderr, path="a", size=4, sha256="x" * 2_000_000, whole=True)',
        'emit("skipped", sys.stderr, path="a", why="\\U0001f600" * 160_000, kind="k" * 500_000)',
        'emit("x", sys.stderr, nested=[[] for _ in range(20_000)])',
    ],
)
def test_words_beside_a_stream_wait_in_little_memory(server: Server, tmp_path: Path, event: str) -> None:
    """A host may say much before its file comes: what is kept of it is small."""
    server.program(f"""
        if verb == "manifest":
            for n in range(300):
                listed(f"{{n}}", b"good")
            listed("a", b"good")
            manifested(1)
        if verb == "send":
            for _ in range(100):
                {event}
    """)
    with _Peak() as memory, pytest.raises(HostError):
        _pull(server, tmp_path)
    assert memory.grown < BUDGET


@pytest.mark.parametrize(
    ("event", "times"),
    [
        ('emit("log", offset=at, data=base64.b64encode(b"\\n" * 400_000).decode()); at += 400_000', 1),
        ('emit("log", offset=0, data="\\U0001f600" * 170_000)', 1),
        ('emit("gpus", gpus=[{} for _ in range(100_000)])', 20),
        ('emit("metrics", offset=at, data=base64.b64encode(b"x" * 1_400_000).decode()); at += 1_400_000', 100),
    ],
    ids=["newlines", "wide", "gpus", "metrics"],
)
def test_a_log_is_followed_in_little_memory(server: Server, event: str, times: int) -> None:
    """Lines are made of a log piece by piece, and a metrics line without end is not held."""
    from gpuctl.core.losses.reader import LossReader
    from gpuctl.remote.follow import LogChunk, MetricsChunk

    server.program(f"""
        at = 0
        for _ in range({times}):
            {event}
        emit("end", state={{}})
    """)
    reader, metrics = LossReader(), MetricsSource()
    with _Peak() as memory, server.host() as host:
        try:
            for one in itertools.islice(follow(host, log_offset=0, metrics_offset=0, until_end=True), 500):
                if isinstance(one, LogChunk):
                    reader.feed(one.data)
                elif isinstance(one, MetricsChunk):
                    metrics.feed(one.data)
        except HostError:
            pass
    assert memory.grown < BUDGET / 3


@pytest.mark.parametrize("kind", ["kind", "to"])
def test_a_listing_is_held_in_little_memory(kind: str) -> None:
    """Every text that a listing keeps is counted, not the names alone."""
    name, field = ("skipped", {"why": "w", "kind": ""}) if kind == "kind" else ("link", {"to": ""})
    manifest = Manifest("run-1")
    with _Peak() as memory, pytest.raises(HostError, match="more than"):
        for n in range(1000):
            manifest.take({"event": name, "path": f"{n}", **field, kind: str(n) * 300_000})
    assert memory.grown < BUDGET


def _one_line(server: Server, talk: Talk) -> None:
    """Whoever answers like that, connecting works or ends in one printable line of a host's error."""
    with listening(talk) as port, server.host(target=server.through(port)) as host:
        try:
            host.connect(timeout_s=1)
        except HostError as error:
            assert str(error).isprintable() and len(str(error)) < 700


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(n, marks=pytest.mark.prove) for n in range(12, 200))])
def test_no_bytes_before_the_key_exchange_are_an_unexpected_error(server: Server, seed: int) -> None:
    """Junk, half a greeting, packets of any length and kind, and the host's own handshake with bytes of it spoilt."""
    rng = random.Random(seed)
    _one_line(server, junk(rng))
    _one_line(server, mangled(server.port, rng))


def _tar(rng: random.Random) -> bytes:
    """A tar stream of three files with every kind of header."""
    buffer = io.BytesIO()
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in ("a", "d/" * 40 + "b", "c\u00e9"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 700, 5
            if form == tarfile.PAX_FORMAT:
                member.pax_headers = {"mtime": rng.choice(["5.000000001", "nan", "1e400", "9" * 400, "-1", "x"])}
            tar.addfile(member, io.BytesIO(bytes(700)))
    return buffer.getvalue()


def _read_tar(data: bytes) -> None:
    """Reads whatever it is as a pull does."""
    source = BoundedReader(io.BytesIO(data), "run-1", files=3, size=2100)
    try:
        for member, content in members(source):
            float(member.mtime)
            while content is not None and content.read(1000):
                pass
    except (NoTarStream, HostError):
        pass


@UNHURRIED
@given(st.binary(max_size=3000), st.randoms(use_true_random=False))
def test_no_tar_stream_is_an_unexpected_error(data: bytes, rng: random.Random) -> None:
    """Any bytes, and good streams with bytes of their headers spoilt, are members or a stream that is none."""
    _read_tar(data)
    _spoilt_tar(rng)


@pytest.mark.prove
def test_no_tar_stream_is_an_unexpected_error_for_long() -> None:
    """The same, very often."""
    for seed in range(30_000):
        _spoilt_tar(random.Random(seed))


def _spoilt_tar(rng: random.Random) -> None:
    good = bytearray(_tar(rng))
    for _ in range(rng.randrange(1, 6)):
        at = 512 * rng.randrange(len(good) // 512) + rng.choice([0, 100, 124, 136, 148, 156, 257, 345, 500])
        good[at : at + rng.choice([1, 8, 12])] = rng.choice([b"\xff", b"\x80", b"0", b"\0", b"9"]) * rng.choice([1, 12])
        header = at - at % 512
        if rng.random() < 0.7:  # its checksum is right all the same
            good[header + 148 : header + 156] = b" " * 8
            good[header + 148 : header + 156] = b"%06o\0 " % (sum(good[header : header + 512]) % 8**6)
    _read_tar(bytes(good))


HUGE = st.sampled_from(
    [
        float("inf"),
        -1,
        2**63,
        10**18,
        253402300800,
        1e300,
        -(10**30),
        "x" * 5000,
        "\x1b[2J\u202e",
        [[[]]],
        {"a": {}},
        None,
    ]
)
STATES = st.dictionaries(
    st.sampled_from(
        ["state", "exit_code", "why", "started", "ended", "power_off_at", "gpus", "attempt", "name", "memory_used_mib"]
    ),
    HUGE | st.integers() | st.floats() | st.lists(st.dictionaries(st.just("name"), HUGE), max_size=3),
)


@UNHURRIED
@given(STATES)
def test_any_state_can_be_told(said: dict[str, object]) -> None:
    """Times that no calendar has and numbers that are none are not believed: what is, can be printed and stored."""
    state = parse_host_state(said)
    assert state.why is None or state.why.isprintable()
    dumps(state)
    parse_gpus(said.get("gpus"))
    if state.started is not None and state.ended is not None:
        assert abs(state.ran_s or 0) < 10**11


@UNHURRIED
@given(st.sampled_from(["file", "link", "skipped", "missing", "x"]), STATES, HUGE, HUGE)
def test_any_listing_is_told(event: str, fields: dict[str, object], path: object, to: object) -> None:
    """A listing's events of any shape are taken or refused."""
    manifest = Manifest("run-1")
    try:
        manifest.take({"event": event, **fields, "path": path, "to": to, "kind": to, "why": path})
    except GpuctlError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "x", "n": NaN}',
        '{"event": "x", "n": -Infinity}',
        '{"event": "x", "n": 1e400}',
        '{"event": "x", "n": 1' + "0" * 5000 + "}",
        '{"event": "x", "a": ' + "[" * 100_000,
        '{"event": "x", "a": ' + "[" * 500 + "]" * 500 + "}",
        '{"event": "x", "a": ' + '{"a": ' * 20 + "1" + "}" * 20 + "}",
        '{"event": "x", "a": "\x01"}',
    ],
)
def test_json_that_means_harm_is_no_event(line: str) -> None:
    """No number that is none, none that takes long to read, and nothing so deep that walking through it would end."""
    assert parse_event(line.encode()) is None


def _run(tmp_path: Path) -> RunHandle:
    return RunHandle("toy", cast(Any, None), cast(Any, None), RunFolder(tmp_path / "toy"))


def test_down_offers_to_go_on_without_the_host(tmp_path: Path) -> None:
    """Whoever waits for a host within `down` reads in a minute how to remove it all the same; who need not does not."""
    assert OFFER_AFTER_S < 60
    told, quick = Notes(), Notes()
    with offering_discard(_run(tmp_path), told, after_s=0.01):
        end = time.monotonic() + 20
        while not told.notes and time.monotonic() < end:
            time.sleep(0.01)
    before = set(threading.enumerate())
    with offering_discard(_run(tmp_path), quick, after_s=600):
        (timer,) = set(threading.enumerate()) - before
    timer.join(20)
    assert not timer.is_alive()
    assert len(told.notes) == 1 and "gpuctl down toy --discard" in told.notes[0] and quick.notes == []


def test_a_copy_is_not_compared_for_ever(server: Server, tmp_path: Path) -> None:
    """A host that takes what it sent itself for another file, over connection after connection, is given up."""
    server.program("""
        emit("differs", file="log")
        emit("log", offset=0, data=base64.b64encode(b"x").decode())
        emit("alive")
    """)
    follower = Follower(_run(tmp_path))
    with server.host() as host:
        for _ in range(5):
            with pytest.raises(HostError, match="before its end"):
                list(follower.events(host, until_end=True))
        with pytest.raises(HostError, match="keeps saying"):
            list(follower.events(host, until_end=True))


def test_of_a_long_log_the_end_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is here of a log may be larger than what there is memory for: its last lines are told, all are read."""
    monkeypatch.setattr("gpuctl.workflows.follow._MOST_HISTORY", 100_000)
    run = _run(tmp_path)
    lines = [f"line {n}" for n in range(50_000)]
    run.kept.log.parent.mkdir(parents=True)
    run.kept.log.write_text("\n".join([*lines, ""]))
    found = [line.text for line in Follower(run).history()]
    assert 100 < len(found) < 1000 and found == lines[-len(found) :]


def test_what_a_host_calls_its_phases_is_harmless(server: Server) -> None:
    """An event's fields may be anything: whoever makes text of them gets text."""
    server.program('emit("phase", phase={"a": [1]}, detail=["\\x1b[2J"]); emit("provisioned")')
    heard: list[str] = []
    with server.host() as host:
        host.call("provision", {}, on_event=lambda event: heard.append(safe(str(event.get("detail")))))
    assert all(text.isprintable() for text in heard)
