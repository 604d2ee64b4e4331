"""A host over SSH: who is believed to be it, how its payload is asked, what of a hostile answer is let through."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from remote_servers import Relay, Server, free_port

from gpuctl.core.errors import HostError, HostKeyMismatch, HostRefused, HostUnreachable
from gpuctl.remote import connection
from gpuctl.remote.keys import generate_key
from gpuctl.remote.protocol import LONGEST_LINE

MakeRelay = Callable[..., Relay]


def test_another_host_key_is_refused_before_anything_is_sent(server: Server) -> None:
    """Where the answer comes with another key than the pinned one, connecting says so and tells both fingerprints."""
    with server.host(public=generate_key("other").public) as host, pytest.raises(HostKeyMismatch) as caught:
        host.connect()
    assert caught.value.message.count("SHA256:") == 2
    assert "run-1" in caught.value.message


def test_a_wrong_host_key_is_not_waited_for(server: Server) -> None:
    """Waiting for a host to be reachable ends at once where another answers in its place."""
    began = time.monotonic()
    with server.host(public=generate_key("other").public) as host, pytest.raises(HostKeyMismatch):
        host.wait_until_reachable(began + 90)
    assert time.monotonic() - began < 90


def test_a_host_that_only_the_home_folder_knows_is_refused(server: Server, own_world: Path) -> None:
    """The user's own known_hosts never vouches for a run's host."""
    ssh = own_world / ".ssh"
    ssh.mkdir()
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {server.host_key.public}\n")
    (ssh / "config").write_text("Host *\n  StrictHostKeyChecking no\n")
    host = server.host()
    known = server.folder / "known_hosts-empty"
    known.write_text("")
    host = type(host)(server.target, identity_file=server.identity, known_hosts_file=known)
    with host, pytest.raises(HostKeyMismatch, match="does not know"):
        host.connect()


def test_a_missing_known_hosts_file_is_no_leave_to_trust(server: Server, tmp_path: Path) -> None:
    """Without the file that pins the key nothing is connected to."""
    host = type(server.host())(server.target, identity_file=server.identity, known_hosts_file=tmp_path / "none")
    with host, pytest.raises(HostKeyMismatch, match="cannot be read"):
        host.connect()


def test_no_key_but_the_runs_own_is_offered(server: Server, own_world: Path, tmp_path: Path) -> None:
    """A key that the server would take is not used from the agent or from ~/.ssh, only the one that was given."""
    ssh = own_world / ".ssh"
    ssh.mkdir()
    (ssh / "id_ed25519").write_text(server.identity.read_text())
    (ssh / "id_ed25519").chmod(0o600)
    (own_world / ".fabric.yml").write_text(f"connect_kwargs:\n  key_filename: {server.identity}\n")
    stranger = tmp_path / "stranger"
    stranger.write_text(generate_key("stranger").private)
    asked: list[bytes] = []
    with _Agent(tmp_path / "agent", asked) as address:
        os.environ["SSH_AUTH_SOCK"] = address
        try:
            with server.host(identity=stranger) as host, pytest.raises(HostError, match="does not accept"):
                host.connect()
        finally:
            del os.environ["SSH_AUTH_SOCK"]
    assert asked == []


class _Agent:
    """A listening socket where an agent's would be; `asked` grows when somebody connects."""

    def __init__(self, path: Path, asked: list[bytes]) -> None:
        self._path, self._asked = path, asked

    def __enter__(self) -> str:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._path))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return str(self._path)

    def _accept(self) -> None:
        try:
            peer, _ = self._socket.accept()
        except OSError:
            return
        self._asked.append(b"!")
        peer.close()

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_a_key_that_is_missing_here_is_told_as_that(server: Server, tmp_path: Path) -> None:
    """A laptop without the run's key hears that it has none, not that the host is down."""
    with server.host(identity=tmp_path / "none") as host, pytest.raises(HostError, match="no key for run-1"):
        host.connect()


def test_nothing_listening_is_waited_for_and_told(server: Server) -> None:
    """A refused connection is tried again until the deadline, each time telling why, and is HostUnreachable then."""
    told: list[HostError] = []
    pauses: list[float] = []
    with server.host(target=server.through(free_port())) as host, pytest.raises(HostUnreachable, match="run-1"):
        host.wait_until_reachable(time.monotonic() + 0.5, pause=_short(pauses), on_wait=told.append)
    assert len(told) == len(pauses) >= 2
    assert all(isinstance(error, HostUnreachable) for error in told)
    assert pauses == sorted(pauses) and pauses[-1] <= 2


def _short(pauses: list[float]) -> Callable[[float], None]:
    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(min(seconds, 0.05))

    return pause


def test_a_host_that_comes_up_late_is_reached(server: Server) -> None:
    """Waiting ends with a connection as soon as the host answers."""
    port = free_port()
    relays: list[Relay] = []

    def come_up(_: HostError) -> None:
        if not relays:
            relays.append(Relay(server.port, listen=port))

    try:
        with server.host(target=server.through(port)) as host:
            host.wait_until_reachable(time.monotonic() + 20, on_wait=come_up)
            assert host.alive()
    finally:
        for made in relays:
            made.__exit__()


def test_what_is_no_ssh_server_is_unreachable(server: Server) -> None:
    """A service that greets with escape sequences is told of in harmless text."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener,), daemon=True).start()
        target = server.through(listener.getsockname()[1])
        with server.host(target=target) as host, pytest.raises(HostUnreachable) as caught:
            host.connect()
    assert "\x1b" not in str(caught.value)


def _greet(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.sendall(b"\x1b]0;owned\x07\x1b[2J hello\r\n" * 200)


def test_a_verb_is_asked_and_answers(server: Server) -> None:
    """The request goes as one line, its events come in order, the last one is the answer."""
    server.program("""
        emit("phase", phase="a")
        emit("echo", request=request, verb=verb)
    """)
    heard: list[Mapping[str, object]] = []
    with server.host() as host:
        answer = host.call("state", {"name": "\udcff\n"}, on_event=heard.append)
    assert answer["request"] == {"schema": 1, "name": "\udcff\n"} and answer["verb"] == "state"
    assert [event["event"] for event in heard] == ["phase", "echo"]


def test_progress_is_heard_while_the_body_goes_up(server: Server) -> None:
    """A verb that speaks before it reads its body is heard before the body is sent."""
    server.program("""
        emit("phase", phase="driver")
        while not os.path.exists(os.path.expanduser("~/gpuctl/go-on")):
            time.sleep(0.01)
        emit("got", size=len(sys.stdin.buffer.read()))
    """)
    go_on = server.home / "gpuctl" / "go-on"
    with server.host() as host:
        body = io.BytesIO(os.urandom(5_000_000))
        answer = host.call("provision", {}, body=body, on_event=lambda event: go_on.touch(), timeout_s=30)
    assert answer["size"] == 5_000_000


def test_a_verb_that_leaves_its_body_unread_is_heard_all_the_same(server: Server) -> None:
    """What a verb refuses before it has read a large body is told as it said it."""
    server.program("""
        emit("error", message="the deadline is not armed", next="launch again")
        sys.exit(1)
    """)
    with server.host() as host, pytest.raises(HostRefused) as caught:
        host.call("provision", {}, body=io.BytesIO(bytes(20_000_000)), timeout_s=30)
    assert "the deadline is not armed" in caught.value.message
    assert caught.value.next_step == "launch again"


def test_an_error_is_told_without_its_escape_sequences(server: Server) -> None:
    """What a host calls an error reaches a person as one short line of plain characters."""
    server.program("""
        emit("error", message="\\x1b[2Jbad\\nline " + "x" * 100_000, next="\\x1b]0;t\\x07do")
        sys.exit(1)
    """)
    with server.host() as host, pytest.raises(HostRefused) as caught:
        host.call("state", {})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_a_verb_that_dies_is_told_with_its_last_words(server: Server) -> None:
    """A payload that ends without an answer is an error with its exit code and the last line of its standard error."""
    server.program("""
        emit("phase", phase="a")
        print("\\x1b[31mBoom: out of luck", file=sys.stderr)
        sys.exit(7)
    """)
    with server.host() as host, pytest.raises(HostError, match=r"exit code 7.*Boom: out of luck") as caught:
        host.call("state", {})
    assert "\x1b" not in str(caught.value)


def test_a_host_without_the_payload_says_so(server: Server) -> None:
    """Where no payload is, the error names the host and what python3 said."""
    with server.host() as host, pytest.raises(HostError, match=r"run-1.*exit code 2.*host\.pyz"):
        host.call("state", {})


def test_noise_before_the_answer_is_let_pass(server: Server) -> None:
    """A greeting from a login script, junk and JSON that is no event do not hide the answer."""
    server.program("""
        print("Welcome to \\x1b[1mUbuntu\\x1b[0m!")
        print('{"event": 5}', '[1]', '{"event": "x", "n": NaN}', "[" * 100_000, sep="\\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\\xff\\xfe\\x00\\n")
        emit("state", state="none")
    """)
    with server.host() as host:
        assert host.call("state", {})["state"] == "none"


def test_an_endless_line_is_refused_in_bounded_memory(server: Server) -> None:
    """A line without end is given up after a few megabytes, not collected."""
    server.program("""
        while True:
            sys.stdout.write("x" * 65536)
    """)
    with server.host() as host, pytest.raises(HostError, match=f"more than {LONGEST_LINE} bytes"):
        host.call("state", {}, timeout_s=60)


def test_endless_noise_is_refused(server: Server) -> None:
    """A flood of lines that are no events ends the call."""
    server.program("""
        while True:
            print("yes")
    """)
    with server.host() as host, pytest.raises(HostError, match="not its protocol"):
        host.call("state", {}, timeout_s=60)


def test_a_call_ends_at_its_time_limit(server: Server) -> None:
    """A host that answers probes and never the call is given up at the limit, and the connection serves on."""
    server.program("""
        if verb == "state":
            time.sleep(60)
        emit("fine")
    """)
    with server.host() as host:
        began = time.monotonic()
        with pytest.raises(HostUnreachable, match="in time"):
            host.call("state", {}, timeout_s=1)
        assert time.monotonic() - began < 60
        assert host.call("stop", {})["event"] == "fine"


def test_a_cut_connection_is_unreachable_and_made_again(server: Server, relay: MakeRelay) -> None:
    """A link that breaks in a call is told as that; the next call connects anew."""
    server.program("""
        emit("phase", phase="a")
        if verb == "state":
            time.sleep(60)
    """)
    link = relay(server.port)
    with server.host(target=server.through(link.port)) as host:
        with pytest.raises(HostUnreachable, match="broke"):
            _call_and_cut(host.call, link)
        assert host.call("stop", {})["phase"] == "a"


def _call_and_cut(call: Callable[..., object], link: Relay) -> None:
    threading.Timer(0.7, link.cut).start()
    call("state", {})


def test_a_dead_link_is_noticed_by_a_probe(server: Server, relay: MakeRelay) -> None:
    """A link that swallows everything is not alive, and one that passes again is."""
    link = relay(server.port)
    with server.host(target=server.through(link.port)) as host:
        host.connect()
        assert host.alive(within_s=5)
        link.stall()
        assert not host.alive(within_s=0.5)


@pytest.mark.prove
def test_a_call_over_a_dead_link_ends(server: Server, relay: MakeRelay) -> None:
    """A call without a time limit, over a link that swallows everything, ends once a probe is not answered."""
    server.program('emit("phase", phase="a"); time.sleep(120)')
    link = relay(server.port)
    began = time.monotonic()
    with server.host(target=server.through(link.port), quiet_s=1) as host:
        with pytest.raises(HostUnreachable, match="no longer"):
            host.call("provision", {}, on_event=lambda event: link.stall())
        assert time.monotonic() - began < 120


def test_a_quiet_host_that_answers_probes_is_waited_for(server: Server) -> None:
    """A verb that says nothing for long, on a host that answers, is heard to its end."""
    server.program('time.sleep(3.5); emit("provisioned")')
    with server.host(quiet_s=1) as host:
        assert host.call("provision", {})["event"] == "provisioned"


def test_the_payload_is_put_once_and_again_when_it_changed(server: Server) -> None:
    """The payload goes up where it is missing or another, whole and renamed into place, and not otherwise."""
    place = server.home / "gpuctl" / "host.pyz"
    first, second = os.urandom(300_000), os.urandom(1_000)
    with server.host() as host:
        host.put_payload(first)
        assert place.read_bytes() == first
        inode = place.stat().st_ino
        host.put_payload(first)
        assert place.stat().st_ino == inode
        host.put_payload(second)
    assert place.read_bytes() == second
    assert [path.name for path in place.parent.iterdir()] == ["host.pyz"]


def test_streams_come_apart(server: Server) -> None:
    """A verb's standard output and error are read each by itself, to their ends."""
    server.program("""
        sys.stdout.buffer.write(b"\\x00\\xff" * 400_000)
        print("beside", file=sys.stderr)
    """)
    with server.host() as host, host.stream("send", {"paths": []}) as streams:
        out = b"".join(iter(lambda: streams.stdout.read(65536), b""))
        err = b"".join(iter(lambda: streams.stderr.read(65536), b""))
    assert out == b"\x00\xff" * 400_000
    assert err == b"beside\n"


def test_a_proxy_command_carries_the_connection(server: Server, tmp_path: Path) -> None:
    """A host behind a proxy command is reached through it, its key checked, and the command's process is gone after."""
    script = tmp_path / "proxy with space.py"
    script.write_text(_PROXY)
    command = f"{sys.executable} '{script}' %h %p {tmp_path / 'pid'} 100%%"
    server.program('emit("state", state="none")')
    with server.host(target=replace(server.target, proxy_command=command)) as host:
        assert host.call("state", {})["state"] == "none"
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


_PROXY = """
import os, socket, sys, threading
assert sys.argv[4] == "100%"
open(sys.argv[3], "w").write(str(os.getpid()))
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        far.sendall(data)
    os._exit(0)
threading.Thread(target=up, daemon=True).start()
while data := far.recv(65536):
    os.write(1, data)
"""


@pytest.mark.parametrize(
    "command", ["no-such-program-at-all %h", f"{sys.executable} -c pass"], ids=["none", "that ends"]
)
def test_a_proxy_command_that_fails_is_unreachable(server: Server, command: str) -> None:
    """A proxy command that is not there, or ends at once, is told soon and as the host not answering."""
    began = time.monotonic()
    with server.host(target=replace(server.target, proxy_command=command)) as host, pytest.raises(HostUnreachable):
        host.connect(timeout_s=60)
    assert time.monotonic() - began < 60


def test_small_requests_are_not_held_back(server: Server) -> None:
    """Our own socket has TCP_NODELAY set, and the system is told when to give a dead link up."""
    with server.host() as host:
        host.connect()
        assert host._link is not None
        sock = host._link.transport.sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            given = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert given == connection.DEAD_LINK_S * 1000


def test_paramiko_prints_nothing_by_itself(server: Server, tmp_path: Path) -> None:
    """A failing connection leaves standard error to whoever shows the error."""
    program = (
        "import sys; from pathlib import Path\n"
        "from gpuctl.core.hosts import SSHTarget; from gpuctl.remote.host import Host\n"
        "host = Host(SSHTarget('r', '127.0.0.1', int(sys.argv[1]), 'u'), identity_file=Path(sys.argv[2]),"
        " known_hosts_file=Path(sys.argv[3]), connect_timeout_s=2)\n"
        "try: host.connect()\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    known = tmp_path / "known"
    known.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener,), daemon=True).start()
        words = [str(listener.getsockname()[1]), str(server.identity), str(known)]
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("HostUnreachable\n", "")
