"""A host's SSH server, as real clients see it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import paramiko
import pytest
from fabric import Connection
from host_fixtures import WAIT_S, Host, Hosts, eventually, key_pair
from host_fixtures import host as host
from host_fixtures import hosts as hosts

BIG = 100_000_000


def ssh(host: Host, folder: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The system's own client."""
    command = ["ssh", "-F", str(host.ssh_config(folder)), *words]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


def shell(host: Host, **pty: int) -> tuple[paramiko.SSHClient, paramiko.Channel]:
    """An interactive shell on a terminal."""
    client = host.connect()
    channel = client.invoke_shell(**pty)
    channel.settimeout(WAIT_S)
    return client, channel


def until(channel: paramiko.Channel, text: bytes) -> bytes:
    """What comes up to a text."""
    found = b""
    while text not in found:
        part = channel.recv(65536)
        assert part, found
        found += part
    return found


def test_exit_code_output_and_errors_arrive_apart(host: Host) -> None:
    """A command's two streams and its exit code."""
    with host.connect() as client:
        to, out, err = client.exec_command("echo out; echo err >&2; exit 7")
        assert (out.read(), err.read(), out.channel.recv_exit_status()) == (b"out\n", b"err\n", 7)
        to.close()


def test_a_signal_is_told_as_one(host: Host, tmp_path: Path) -> None:
    """A command that is killed has an exit signal, which OpenSSH shows as 255 and paramiko as -1."""
    assert host.run("kill -9 $$")[0] == -1
    assert ssh(host, tmp_path, "host", "kill -TERM $$").returncode == 255


def test_standard_input_ends_where_the_clients_does(host: Host) -> None:
    """Half-closed: input is over, output still comes."""
    assert host.run("cat; echo after", b"all of it\n") == (0, "all of it\nafter\n")


def test_a_command_that_reads_nothing_ends(host: Host, tmp_path: Path) -> None:
    """Input that nobody reads is no obstacle."""
    assert host.run("exec 0<&-; echo done", b"x" * 1_000_000) == (0, "done\n")
    assert ssh(host, tmp_path, "host", "true", input=b"x" * 5_000_000).returncode == 0


def test_a_background_job_that_lets_go_does_not_hold_the_session(host: Host) -> None:
    """The session ends with its command where the job has its own streams."""
    assert host.run("setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")[0] == 0


def test_only_language_comes_from_the_client(host: Host) -> None:
    """LANG and LC_* as on Ubuntu; anything else is left out."""
    with host.connect() as client:
        _, out, _ = client.exec_command("env", environment={"LC_TIME": "C", "LD_PRELOAD": "/evil", "PATH": "/evil"})
        text = out.read().decode()
    assert "LC_TIME=C\n" in text
    assert "evil" not in text


@pytest.mark.parametrize("user", ["ubuntu", "root", "Odd Näme"])
def test_any_user_name_comes_in(host: Host, user: str) -> None:
    """As on an image whose user one need not know; an odd one is not put into the environment."""
    with host.connect() as client:
        transport = paramiko.Transport(socket.create_connection(("127.0.0.1", host.port)))
        transport.start_client(timeout=WAIT_S)
        transport.auth_publickey(user, client.get_transport().auth_handler.private_key)  # type: ignore[union-attr]
        channel = transport.open_session()
        channel.exec_command("echo $USER")
        assert channel.makefile().read().decode().strip() == (user if user.isalnum() else "ubuntu")
        transport.close()


def test_another_key_is_refused(host: Host) -> None:
    """Nobody but the caller comes in."""
    with pytest.raises(paramiko.AuthenticationException):
        host.connect(key=key_pair())


def test_no_password_is_ever_asked_for(host: Host, tmp_path: Path) -> None:
    """Public keys are the only method on offer."""
    config = host.ssh_config(tmp_path)
    words = ["-v", "-o", "IdentityFile=/none", "-o", "BatchMode=yes"]
    done = subprocess.run(["ssh", *words, "-F", "/dev/null", *_target(config, host)], capture_output=True, check=False)
    assert done.returncode == 255
    assert b"Authentications that can continue: publickey\r\n" in done.stderr


def _target(config: Path, host: Host) -> list[str]:
    known = config.with_name("known_hosts")
    return ["-o", f"UserKnownHostsFile={known}", "-p", str(host.port), "x@127.0.0.1", "true"]


def test_the_seventh_key_is_not_looked_at(host: Host, tmp_path: Path) -> None:
    """OpenSSH's MaxAuthTries: five wrong keys and the right one come in, six wrong ones end the connection."""
    host.ssh_config(tmp_path)
    right = tmp_path / "caller"
    wrong = []
    for number in range(6):
        path = tmp_path / f"wrong{number}"
        path.write_text(key_pair().private)
        path.chmod(0o600)
        wrong.append(path)

    def attempt(keys: list[Path]) -> subprocess.CompletedProcess[bytes]:
        words = [word for key in keys for word in ("-i", str(key))]
        options = ["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        command = ["ssh", *options, *words, *_target(tmp_path / "ssh_config", host)]
        return subprocess.run(command, capture_output=True, check=False)

    assert attempt([*wrong[:5], right]).returncode == 0
    refused = attempt([*wrong, right])
    assert refused.returncode == 255
    assert b"Too many authentication failures" in refused.stderr


def test_a_host_with_another_key_is_not_the_pinned_one(host: Host, tmp_path: Path) -> None:
    """The system's client verifies the key that user-data brought."""
    config = host.ssh_config(tmp_path)
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {key_pair().public}\n")
    done = subprocess.run(["ssh", "-F", str(config), "host", "true"], capture_output=True, check=False)
    assert done.returncode == 255
    assert b"HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_ten_sessions_on_a_connection_and_no_more(host: Host) -> None:
    """OpenSSH's MaxSessions; a session that ends makes room."""
    with host.connect() as client:
        transport = client.get_transport()
        assert transport
        channels = [transport.open_session() for _ in range(10)]
        with pytest.raises(paramiko.ChannelException):
            transport.open_session()
        channels.pop().close()
        eventually(lambda: _opens(transport))
        for channel in channels:
            channel.exec_command("true")
            assert channel.recv_exit_status() == 0


def _opens(transport: paramiko.Transport) -> bool:
    try:
        transport.open_session().close()
    except paramiko.ChannelException:
        return False
    return True


def test_a_caller_that_the_groups_do_not_admit_sees_no_banner(hosts: Hosts) -> None:
    """Each connection is asked about by its address; a closed door says nothing, and rules may change."""
    host = hosts.start(bootcmd=[])
    hosts.admissions.addresses = {"127.0.0.2"}
    for address, admitted in (("127.0.0.1", False), ("127.0.0.2", True)):
        with socket.create_connection(("127.0.0.1", host.port), source_address=(address, 0)) as sock:
            sock.settimeout(WAIT_S)
            assert bool(sock.recv(100).startswith(b"SSH-2.0")) is admitted
    assert hosts.admissions.asked == ["127.0.0.1", "127.0.0.2"]


def test_nobody_is_admitted_where_the_cloud_does_not_answer(hosts: Hosts) -> None:
    """A rule that cannot be asked for is a closed door."""
    host = hosts.start(bootcmd=[])
    hosts.admissions.server_close()
    with socket.create_connection(("127.0.0.1", host.port)) as sock:
        sock.settimeout(WAIT_S)
        assert sock.recv(100) == b""


def test_a_terminal_is_a_real_one(host: Host) -> None:
    """Size, resize, type, job control; C-c ends the command and not the shell."""
    client, channel = shell(host, term="xterm-256color", width=101, height=33)
    with client:
        channel.send(b"stty size; echo T=$TERM; tty\n")
        assert b"33 101" in until(channel, b"/dev/pts/")
        channel.resize_pty(width=77, height=22)
        channel.send(b"stty size\n")
        until(channel, b"22 77")
        channel.send(b"echo $((40 + 2)); sleep 1000; echo rest\n")
        until(channel, b"42")
        time.sleep(0.2)  # the shell has printed and begins to sleep
        channel.send(b"\x03")
        channel.send(b"echo status $?\n")
        assert b"rest" not in until(channel, b"status 130").replace(b"echo rest", b"")
        channel.send(b"sleep 1000 &\njobs\n")
        until(channel, b"Running")
        channel.send(b"exit 4\n")
        assert channel.recv_exit_status() == 4


def test_a_terminal_that_goes_away_hangs_up(host: Host) -> None:
    """A closed connection takes the command on its terminal along."""
    client, channel = shell(host)
    channel.send(b"sleep 1000 & echo PID $!; fg\n")
    pid = until(channel, b"sleep 1000\r\n").partition(b"\r\nPID ")[2].split()[0].decode()
    assert host.run(f"kill -0 {pid}")[0] == 0
    client.close()
    eventually(lambda: host.run(f"kill -0 {pid}")[0] != 0)


def test_the_last_words_on_a_terminal_arrive(host: Host, tmp_path: Path) -> None:
    """All of what a command prints before it ends, again and again."""
    for _ in range(10):
        done = ssh(host, tmp_path, "-tt", "host", "seq 1 5000; exit 9", stdin=subprocess.DEVNULL)
        assert done.returncode == 9
        assert done.stdout.replace(b"\r", b"").split() == [str(n).encode() for n in range(1, 5001)]


@pytest.mark.parametrize("job", ["sleep 1000", "yes"])
def test_a_background_job_does_not_hold_a_terminal(host: Host, tmp_path: Path, job: str) -> None:
    """The session ends with its shell, whatever else still has the terminal, quiet or not."""
    assert ssh(host, tmp_path, "-tt", "host", f"{job} & exit 6", stdin=subprocess.DEVNULL).returncode == 6


def test_a_signal_from_the_client_reaches_the_command(host: Host) -> None:
    """RFC 4254's signal request goes to the command's whole group; one that does not exist is ignored."""
    with host.connect() as client:
        transport = client.get_transport()
        assert transport
        channel = transport.open_session()
        channel.exec_command("trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.05; done")
        assert channel.recv(100) == b"ready\n"
        for name in (b"NONSENSE", b"USR1"):
            message = paramiko.Message()
            message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
            message.add_int(channel.remote_chanid)
            message.add_string(b"signal")
            message.add_boolean(False)
            message.add_string(name)
            transport._send_user_message(message)
        assert channel.recv_exit_status() == 5
        assert channel.recv(100) == b"got it\n"


def test_login_shells_keep_the_stand_ins(host: Host) -> None:
    """/etc/profile sets PATH anew, in each new tmux window; the host's own comes back."""
    code, text = host.run("bash -l -c 'command -v shutdown'; sh -l -c 'command -v shutdown'")
    assert code == 0
    assert [line.startswith("/") and "gpuctl-" in line for line in text.splitlines()] == [True, True]


def test_ports_of_the_host_are_reached_and_no_others(host: Host) -> None:
    """A forward to loopback carries bytes both ways; one to another machine is refused."""
    with socket.create_server(("127.0.0.1", 0)) as server, host.connect() as client:
        thread = threading.Thread(target=_echo_once, args=(server,))
        thread.start()
        transport = client.get_transport()
        assert transport
        with transport.open_channel("direct-tcpip", server.getsockname(), ("127.0.0.1", 1)) as channel:
            channel.sendall(b"through")
            channel.shutdown_write()
            assert channel.makefile().read() == b"through"
        thread.join()
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("192.0.2.1", 80), ("127.0.0.1", 1))
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("127.0.0.1", 0)


def _echo_once(server: socket.socket) -> None:
    sock, _ = server.accept()
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


def test_a_hundred_megabytes_both_ways_in_flat_memory(host: Host, tmp_path: Path) -> None:
    """Whole in every direction, and the server holds a few windows, not the stream."""
    chunk = os.urandom(1_000_000)
    source = tmp_path / "source"
    source.write_bytes(chunk * (BIG // len(chunk)))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    config = host.ssh_config(tmp_path)
    with source.open("rb") as stdin, (tmp_path / "back").open("wb") as stdout:
        subprocess.run(["ssh", "-F", str(config), "host", "cat"], stdin=stdin, stdout=stdout, check=True, timeout=120)
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest
    with source.open("rb") as stdin:
        slow = ssh(host, tmp_path, "host", "sleep 1; sha256sum", stdin=stdin)
    assert slow.stdout.split()[0].decode() == digest
    assert _peak_mib(host) < 110


def _peak_mib(host: Host) -> float:
    """The most memory that the host's SSH server has had."""
    pids = [pid for pid in host.processes() if b"host.machine" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    lines = Path(f"/proc/{pids[0]}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def test_a_client_with_a_huge_window_that_reads_slowly_costs_no_memory(host: Host) -> None:
    """The server stops at what the network takes, whatever the client says that it could take."""
    with host.connect() as client:
        transport = client.get_transport()
        assert transport
        channel = transport.open_session(window_size=2**30)
        channel.exec_command(f"head -c {BIG} /dev/zero")
        got = 0
        while data := channel.recv(1_000_000):
            got += len(data)
        assert got == BIG
    assert _peak_mib(host) < 110


TRANSFERS = {
    "sftp": lambda config: ["sftp", "-F", config, "-b", "-", "host"],
    "scp": lambda config: ["scp", "-q", "-F", config],
    "scp -O": lambda config: ["scp", "-q", "-O", "-F", config],
    "rsync": lambda config: ["rsync", "-e", f"ssh -F {config}"],
}


@pytest.mark.parametrize("program", [name for name in TRANSFERS if shutil.which(name.split()[0])])
def test_the_systems_own_programs_carry_files_both_ways(host: Host, tmp_path: Path, program: str) -> None:
    """A relative path is the home folder's; names with blanks, contents whole, exit code 0."""
    source, back = tmp_path / "a file", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_000))
    command = TRANSFERS[program](str(host.ssh_config(tmp_path)))
    name = f"from-{program.replace(' ', '')}"
    if program == "sftp":
        script = f'put "{source}" {name}\nget {name} {back}\nmkdir d-{name}\nls -l\nrename {name} d-{name}/x\n'
        subprocess.run(command, input=script.encode(), check=True, capture_output=True)
        assert (host.home / f"d-{name}" / "x").read_bytes() == source.read_bytes()
    else:
        subprocess.run([*command, str(source), f"host:{name}"], check=True, capture_output=True)
        subprocess.run([*command, f"host:{name}", str(back)], check=True, capture_output=True)
        assert (host.home / name).read_bytes() == source.read_bytes()
    assert back.read_bytes() == source.read_bytes()


def test_paramikos_sftp_sees_the_disk_as_a_process_would(host: Host, tmp_path: Path) -> None:
    """Relative paths are the home folder's, absolute ones are the system's; a large get keeps memory flat."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(1_000_000) * 60)
    with host.connect() as client, client.open_sftp() as sftp:
        assert sftp.normalize(".") == str(host.home)
        sftp.put(str(big), "big")
        sftp.get("big", str(tmp_path / "again"))
        assert sftp.stat(str(host.home / "big")).st_size == 60_000_000
        with pytest.raises(FileNotFoundError):
            sftp.stat("none")
        sftp.symlink("big", "link")
        assert sftp.readlink("link") == "big"
    assert (tmp_path / "again").read_bytes() == big.read_bytes()
    assert _peak_mib(host) < 110


def test_fabric_runs_commands(host: Host, tmp_path: Path) -> None:
    """The library that gpuctl's own transport stands on."""
    host.ssh_config(tmp_path)
    with Connection(
        "127.0.0.1", user="ubuntu", port=host.port, connect_kwargs={"key_filename": str(tmp_path / "caller")}
    ) as c:
        done = c.run("echo hello; echo oops >&2; exit 3", hide=True, warn=True, in_stream=False)
        assert (done.stdout, done.stderr, done.exited) == ("hello\n", "oops\n", 3)
        done = c.run("tty", hide=True, pty=True, in_stream=False)
        assert done.stdout.startswith("/dev/pts/")


def test_tmux_goes_on_when_every_connection_is_gone(hosts: Hosts) -> None:
    """A detached session outlives its client, and not its host."""
    host = hosts.start(bootcmd=[])
    assert host.run("tmux new-session -d -s gpuctl 'while :; do date >> beats; sleep 0.05; done'")[0] == 0
    eventually((host.home / "beats").exists)
    size = (host.home / "beats").stat().st_size
    eventually(lambda: (host.home / "beats").stat().st_size > size)
    assert host.run("tmux has-session -t gpuctl")[0] == 0
    host.process.terminate()
    host.process.wait(5)
    assert not host.processes()


def test_a_forgotten_client_does_not_hold_the_server(host: Host) -> None:
    """Connections that say nothing, or nonsense, leave the server well."""
    socks = [socket.create_connection(("127.0.0.1", host.port)) for _ in range(20)]
    for sock in socks[:10]:
        sock.sendall(os.urandom(2000))
    assert host.run("echo well") == (0, "well\n")
    for sock in socks:
        sock.close()
