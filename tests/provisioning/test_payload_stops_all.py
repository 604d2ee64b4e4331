"""A stop ends all that descends from the command, whatever group, session or user it has moved to, and lets it save."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from payload_host import Host, wait_for

from provisioning.stopping import send_signal

SAVES = """
import os, sys, time
print("up", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.5)
    open("outputs/saved.pt", "w").write("x")
"""
STUBBORN = """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
LAUNCHER = """
import signal, subprocess, sys, time
subprocess.Popen([sys.executable, "worker.py"], start_new_session=True)
signal.signal(signal.SIGINT, signal.SIG_DFL)
time.sleep(600)
"""
"""It dies of C-c and hands nothing on; its worker is in a session of its own."""


def start(host: Host, command: list[str], files: dict[str, str]) -> None:
    host.provision(command, {name: text.encode() for name, text in files.items()})
    host.start()
    wait_for(lambda: b"up\n" in host.log)


def still_there(host: Host, word: bytes) -> list[int]:
    return [pid for pid in host.left() if word in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    "command", ["timeout 6h python train.py", "setsid sh -c 'python train.py; exit 0'", "python launch.py"]
)
def test_what_has_left_the_group_saves_and_ends(host: Host, command: str) -> None:
    """C-c comes first there too, once, and what the program does then is waited for."""
    start(host, shlex.split(command), {"train.py": SAVES, "worker.py": SAVES, "launch.py": LAUNCHER})
    assert host.call("stop", grace_s=40)[-1]["state"] == "stopped"
    assert (host.work / "outputs/saved.pt").exists()
    assert still_there(host, b"train.py") == still_there(host, b"worker.py") == []


def test_c_c_in_the_pane_reaches_a_command_under_timeout(host: Host) -> None:
    """It is in no group of the terminal's, and saves all the same."""
    start(host, ["timeout", "6h", "python", "train.py"], {"train.py": SAVES})
    host.tmux("send-keys", "-t", "=gpuctl:", "C-c")
    assert host.wait_until_over()["state"] == "stopped"
    assert (host.work / "outputs/saved.pt").exists()


@pytest.mark.parametrize("command", [["timeout", "6h", "python", "train.py"], ["python", "launch.py"]])
def test_what_has_left_the_group_and_ignores_signals_is_killed(host: Host, command: list[str]) -> None:
    """And the log names it."""
    start(host, command, {"train.py": STUBBORN, "worker.py": STUBBORN, "launch.py": LAUNCHER})
    assert host.call("stop", grace_s=2)[-1]["state"] == "stopped"
    assert b"gpuctl: killed: process " in host.log
    assert still_there(host, b"train.py") == still_there(host, b"worker.py") == []


def test_what_runs_as_another_user_is_signalled_by_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo python …` cannot be signalled by whoever called it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        sudo, asked = Path(folder, "sudo"), Path(folder, "asked")
        sudo.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n')
        sudo.chmod(0o755)
        asked.touch()
        asked.chmod(0o666)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        others = [subprocess.Popen(["sleep", "60"]) for _ in range(2)] if os.geteuid() == 0 else []
        pids = [process.pid for process in others] or [1]
        mine = os.getresuid()
        try:
            if others:
                os.setresuid(65534, 65534, 0)
            send_signal(pids, signal.SIGTERM)
        finally:
            os.setresuid(*mine)
        assert asked.read_text() == f"-n kill -15 {' '.join(map(str, pids))}\n"
        assert all(process.poll() is None for process in others)
        for process in others:
            process.kill()
            process.wait()


@pytest.mark.prove
def test_who_did_not_end_is_named(host: Host) -> None:
    """Where nothing reaches it: here its supervisor is halted, and tmux too, which would wake it."""
    start(host, ["python", "train.py"], {"train.py": SAVES})
    halted = [int(host.tmux("display-message", "-p", "#{pid}").stdout)]
    halted.append(json.loads((host.root / "run/1/state.json").read_text())["pid"])
    for pid in halted:
        os.kill(pid, signal.SIGSTOP)
    try:
        code, (*_, error) = host.try_call("stop", grace_s=0)
        (left,) = still_there(host, b"train.py")
    finally:
        for pid in halted:
            os.kill(pid, signal.SIGCONT)
    assert code == 1 and error["message"] == f"training did not end: process {left} (python train.py)"
    host.wait_until_over()
