"""What leaves the command's group outlives it, and is left alone: the run is not home while that may still write."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from payload_host import Host, manifest, wait_for

from provisioning.outputs import left_nothing
from provisioning.paths import Paths

WORKER = """
import os, sys, time
model = open("outputs/model.pt", "ab", buffering=0)
open("outputs/.pid", "w").write(str(os.getpid()))
while not os.path.exists("finish"):
    model.write(b"more "); time.sleep(0.1)
model.close()
while not os.path.exists("end"):
    time.sleep(0.1)
open("outputs/final.pt", "w").write("whole")
"""
STARTS_IT = """
import os, subprocess, sys, time
subprocess.Popen({words}, start_new_session=True{more})
while not os.path.exists("outputs/.pid"):
    time.sleep(0.05)
"""
PLAIN = STARTS_IT.format(words='[sys.executable, "worker.py"]', more="")
WITHOUT_A_MARK = STARTS_IT.format(words='[sys.executable, "worker.py"]', more=", env={}")


@pytest.fixture
def workers(host: Host) -> Iterator[Host]:
    """A host whose worker, if there still is one, ends with the test."""
    yield host
    try:
        os.kill(int((host.work / "outputs/.pid").read_text()), signal.SIGKILL)
    except OSError:
        return


def run(host: Host, script: str, **more: object) -> int:
    """Train until the command has ended; the pid of the worker that it has left."""
    host.provision(["python", "train.py"], {"train.py": script.encode(), "worker.py": WORKER.encode()}, **more)
    host.start()
    host.wait_until_over()
    return int((host.work / "outputs/.pid").read_text())


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(("script", "idle_s"), [(PLAIN, None), (WITHOUT_A_MARK, 3600)], ids=["by mark", "by descent"])
def test_nothing_is_home_while_a_worker_may_still_write(workers: Host, script: str, idle_s: int | None) -> None:
    """It has the model open, then nothing at all before it writes the last file: the run is told as not whole, and by
    what; once it has ended everything is."""
    host = workers
    pid = run(host, script, idle_s=idle_s)
    state = host.state()
    assert state["state"] == "succeeded" and f"process {pid} (" in state["why"] and "worker.py" in state["why"]
    assert f"runs on: process {pid}".encode() in host.log
    found = manifest(host)
    assert found.left() == {f"process {pid}": ("running", None)}
    assert "worker.py" in found.skipped[f"process {pid}"]["why"]
    assert found.files["outputs/model.pt"]["complete"] is False
    assert host.send(["outputs/model.pt"])[1][0]["whole"] is False
    (host.work / "finish").touch()
    wait_for(lambda: manifest(host).files["outputs/model.pt"]["complete"])
    assert manifest(host).left() == {f"process {pid}": ("running", None)}
    (host.work / "end").touch()
    wait_for(lambda: ended(pid))
    found = manifest(host)
    assert found.left() == {} and found.files["outputs/final.pt"]["complete"] is True


def test_a_command_that_only_opens_a_tmux_session_of_its_own_is_not_over_yet(workers: Host) -> None:
    """Its parent is the tmux server, which is no child of the supervisor's."""
    script = "#!/bin/sh\ntmux new -d -s mine python3 worker.py; until [ -e outputs/.pid ]; do sleep 0.1; done\n"
    host = workers
    host.provision(["sh", "run.sh"], {"run.sh": script.encode(), "worker.py": WORKER.encode()})
    host.start()
    assert host.wait_until_over()["state"] == "succeeded"
    pid = int((host.work / "outputs/.pid").read_text())
    assert manifest(host).left() == {f"process {pid}": ("running", None)}


def test_a_daemon_in_no_folder_holds_nothing_up(host: Host) -> None:
    """Daemons leave for `/`; and a person's shell in the workspace is not the command's."""
    script = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True, cwd='/')"
    host.train(script)
    assert host.wait_until_over()["why"] is None
    host.spawn(["sh", "-c", "cd gpuctl/work; sleep 600; true"], cwd=host.home)
    assert manifest(host).left() == {}
    for pid in host.left():
        if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00":
            os.kill(pid, signal.SIGKILL)


def test_a_file_that_anybody_writes_is_not_whole(host: Host) -> None:
    """Not the command's: whoever has a file of the workspace open to write is named."""
    host.train("open('outputs/m.pt', 'w').write('m')")
    host.wait_until_over()
    person = host.spawn(["sh", "-c", "exec sleep 600 >>gpuctl/work/outputs/m.pt"], cwd=host.home)
    found = wait_for(lambda: (told := manifest(host)).left() and told)
    assert found.left() == {f"process {person.pid}": ("running", None)}
    assert found.files["outputs/m.pt"]["complete"] is False


def test_a_writer_outside_the_group_is_not_taken_for_done(workers: Host) -> None:
    """While training runs too: what a worker in a session of its own has open to write in place is not complete."""
    half = "import time\nhalf = open('outputs/half.pt', 'wb', buffering=0)\nhalf.write(b'half')\ntime.sleep(600)"
    script = PLAIN + f"subprocess.Popen([sys.executable, '-c', {half!r}], start_new_session=True)\ntime.sleep(600)"
    host = workers
    host.provision(["python", "train.py"], {"train.py": script.encode(), "worker.py": WORKER.encode()})
    host.start()
    wait_for(lambda: (host.work / "outputs/half.pt").exists())
    time.sleep(2.5)
    assert manifest(host).files["outputs/half.pt"]["complete"] is False
    host.call("stop", grace_s=1)
    for pid in host.left():
        if b"half.pt" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def test_a_run_that_failed_early_has_left_something_where_its_worker_runs_on(workers: Host) -> None:
    """The host does not power itself off under it."""
    host = workers
    run(host, PLAIN + "(os.remove('outputs/model.pt'), sys.exit(1))", idle_s=3600)
    state = host.state()
    assert (state["state"], state["power_off_at"]) == ("failed", None)
    assert left_nothing(Paths(host.root, host.root / "envs")) is False
