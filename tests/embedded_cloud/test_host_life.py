"""A host outlives nothing: however it ends, nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from host_fixtures import WAIT_S, Host, Hosts, carriers, eventually
from host_fixtures import hosts as hosts

from gpuctl.embedded_cloud.host import cleanup
from gpuctl.embedded_cloud.host.processes import belonging

SLEEP = f"sleep {1_000_000 + os.getpid()}"
"""What hostile children do: told apart from those of any other test run."""

HOSTILE = {
    "a child in a session of its own": f"setsid nohup {SLEEP} >/dev/null 2>&1 &",
    "a child orphaned twice": f"(setsid sh -c '(setsid {SLEEP} &) &' &) >/dev/null 2>&1",
    "a child with an empty environment": f"env -i setsid {SLEEP} >/dev/null 2>&1 &",
    "a tmux server": f"tmux new-session -d '{SLEEP}'",
    "a child that ignores signals": f"setsid sh -c 'trap \"\" TERM HUP; while :; do {SLEEP}; done' >/dev/null 2>&1 &",
    "a loop that forks": f"setsid sh -c 'while :; do {SLEEP} & sleep 0.01; done' >/dev/null 2>&1 &",
    "a stopped child": f"sh -c 'kill -STOP $$; {SLEEP}' >/dev/null 2>&1 &",
}


def sleepers() -> list[int]:
    """Processes of these tests, found by their command alone."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if SLEEP.encode() in command:
                found.append(int(folder.name))
    return found


def machine_of(host: Host) -> int:
    """The host's second process; 0 where there is none just now."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _parent(int(folder.name)) == host.process.pid:
            try:
                if b"gpuctl.embedded_cloud.host.machine" in (folder / "cmdline").read_bytes():
                    return int(folder.name)
            except OSError:
                continue
    return 0


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def begin(host: Host, name: str) -> None:
    """Starts something hostile, and waits until it is there."""
    before = len(sleepers())
    assert host.run(HOSTILE[name])[0] == 0
    eventually(lambda: len(sleepers()) > before)


def begin_all(host: Host) -> None:
    """Starts everything hostile."""
    for name in HOSTILE:
        begin(host, name)


def all_gone(host: Host) -> bool:
    folders = list(Path("/tmp").glob(f"gpuctl-{host.mark[-8:]}-*"))
    return not carriers(host.mark) and not sleepers() and not folders


def test_terminating_a_host_ends_whatever_it_started(hosts: Hosts) -> None:
    """SIGTERM to the first process: nothing that was started is left, and no run folder."""
    host = hosts.start(bootcmd=[])
    begin_all(host)
    host.process.terminate()
    assert host.process.wait(WAIT_S) == 0
    eventually(lambda: all_gone(host))
    assert host.expect("ended")["reason"] == "poweroff"
    assert host.home.is_dir(), "the disk is the cloud's to remove"


def test_a_dead_cloud_ends_its_hosts(hosts: Hosts) -> None:
    """The lifeline's end of file is the host's end, for what the boot script left running too."""
    host = hosts.start(bootcmd=[*HOSTILE.values()])
    eventually(lambda: len(sleepers()) >= len(HOSTILE))
    assert host.process.stdin
    host.process.stdin.close()
    assert host.process.wait(5) == 0
    eventually(lambda: all_gone(host))
    assert host.expect("ended")["reason"] == "lifeline"


def test_killing_the_first_process_leaves_nothing(hosts: Hosts) -> None:
    """kill -9 of the first process: the second notices and ends everything, what emptied its environment too."""
    host = hosts.start(bootcmd=[*HOSTILE.values()])
    begin_all(host)
    host.process.kill()
    host.process.wait()
    eventually(lambda: all_gone(host), timeout_s=5)


def test_a_killed_ssh_server_comes_back_and_what_runs_goes_on(hosts: Hosts) -> None:
    """Code on the host that kills the server loses its sessions, no more; at the end what it orphaned goes too."""
    host = hosts.start(bootcmd=["echo >> boots"])
    begin(host, "a child with an empty environment")
    killed = machine_of(host)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{killed}").exists())
    assert host.run("echo back") == (0, "back\n")
    assert sleepers()
    assert (host.home / "boots").read_text() == "\n", "the boot script ran again"
    host.process.terminate()
    host.process.wait(5)
    eventually(lambda: all_gone(host))


def test_a_server_that_is_killed_without_end_ends_the_host(hosts: Hosts) -> None:
    """The host says why and is gone, rather than restart for ever."""
    host = hosts.start(bootcmd=[])
    while host.process.poll() is None:
        machine = machine_of(host)
        if machine:
            os.kill(machine, signal.SIGKILL)
            eventually(lambda machine=machine: _parent(machine) != host.process.pid)
    assert host.expect("boot-error")["message"].startswith("the SSH server ended 10 times")
    assert host.expect("ended")["reason"] == "boot-error"


def test_what_is_left_when_both_processes_are_killed_can_be_cleared(hosts: Hosts) -> None:
    """A new cloud clears a dead host away by its mark: processes, run folder, disk."""
    host = hosts.start(bootcmd=[])
    begin(host, "a tmux server")
    machine = machine_of(host)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        os.kill(machine, number)
        os.kill(host.process.pid, number)
    host.process.wait()
    assert sleepers()
    assert cleanup.clear(host.disk, host.mark)
    eventually(lambda: all_gone(host))
    assert not host.disk.exists()


def test_clearing_one_host_leaves_another_alone(hosts: Hosts) -> None:
    """Marks are told apart, and nothing is ended but what carries this one."""
    host = hosts.start(bootcmd=[])
    assert cleanup.clear(host.disk.parent / "i-0123456789abcdef0", "i-0123456789abcdef0")
    assert host.run("echo here") == (0, "here\n")


def test_a_boot_script_that_fills_its_home_harms_nothing_else(hosts: Hosts, tmp_path: Path) -> None:
    """A hostile boot script has a HOME of its own to spoil; the host boots and ends as any other."""
    before = sorted(Path.home().iterdir())
    host = hosts.start(bootcmd=["rm -rf ~/* ~/.[a-z]*; ln -s / ~/root; echo 'exit 1' > ~/.profile; chmod 0 ~"])
    assert "in\n" in host.run("echo in")[1]
    assert sorted(Path.home().iterdir()) == before
    host.process.terminate()
    assert host.process.wait(5) == 0


def test_ten_hosts_at_once(hosts: Hosts) -> None:
    """They all boot and all end; one's end is not another's."""
    ten = [hosts.start(wait=False) for _ in range(10)]
    for host in ten:
        host.expect("booted")
    answers = []
    threads = [threading.Thread(target=lambda host=host: answers.append(host.run("echo $INSTANCE_ID"))) for host in ten]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted((0, f"{host.mark}\n") for host in ten)
    for host in ten[:5]:
        host.process.terminate()
        assert host.process.wait(5) == 0
    assert ten[9].run("true")[0] == 0


def test_a_bad_description_is_refused() -> None:
    """A host that is not described does not start."""
    for line in (b"", b"[]\n", b"{}\n", b'{"disk": 1}\n'):
        done = subprocess.run(
            [sys.executable, "-m", "gpuctl.embedded_cloud.host"], input=line, capture_output=True, check=False
        )
        assert done.returncode == 2
        assert b"description" in done.stderr
        assert b"Traceback" not in done.stderr


def test_only_descendants_and_carriers_belong() -> None:
    """A child of this process belongs to it, and nothing does to a mark that nobody carries."""
    with subprocess.Popen(["sleep", "100"]) as child:
        assert child.pid in belonging("i-nobody", root=os.getpid())
        assert belonging("i-nobody", root=None) == set()
        child.kill()
