"""The cloud's process: one on a state, found by a file, ended with all that it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cloud_fixtures import STAND_IN, Cloud, ids, run_cloud, until
from filelock import FileLock

from gpuctl.embedded_cloud import daemon
from gpuctl.embedded_cloud.control import Options
from gpuctl.embedded_cloud.place import Place


def test_a_second_start_finds_the_first(state: Path) -> None:
    """Two starts at once, and a third, all name one process."""
    answers: list[Cloud] = []
    starts = [threading.Thread(target=lambda: answers.append(Cloud.start(state, "--no-hosts"))) for _ in range(2)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    answers.append(Cloud.start(state, "--no-hosts"))
    assert len({(cloud.endpoint, cloud.pid) for cloud in answers}) == 1
    assert json.loads((state / "cloud.json").read_text()) == {
        "endpoint": answers[0].endpoint,
        "pid": answers[0].pid,
        "started": json.loads(run_cloud("start", state).stdout)["started"],
        "state": str(state.resolve()),
        "key": answers[0].key,
    }
    found = json.loads(run_cloud("status", state).stdout)
    del found["pythons"], found["environments"]
    assert found == {"running": True, "endpoint": answers[0].endpoint, "pid": answers[0].pid, "instances": 0}


def test_a_start_beside_a_running_cloud_does_not_pay_for_moto(state: Path) -> None:
    """Asking whether a cloud runs imports nothing that takes long."""
    Cloud.start(state, "--no-hosts")
    program = (
        "import sys; from gpuctl.embedded_cloud.__main__ import main; main(sys.argv[1:]);"
        "assert not {'moto', 'boto3', 'botocore', 'werkzeug'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "start", "--state", str(state)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_stop_leaves_nothing_and_may_be_said_twice(state: Path) -> None:
    """After stop there is no process, no cloud.json, no host's folder; the next cloud has the same port."""
    cloud = Cloud.start(state, "--host-command", STAND_IN)
    (instance_id,) = ids(cloud.fleet(cloud.template("template")))
    cloud.wait_for_state(instance_id, "running")
    host_pid = json.loads((state / "hosts" / instance_id / "config.json").read_text())["pid"]
    assert json.loads(run_cloud("stop", state).stdout) == {"stopped": True}
    for pid in (cloud.pid, host_pid):
        assert not lives(pid)
    assert sorted(path.name for path in state.iterdir() if path.name not in ("cache", "bin")) == [
        "cloud.lock",
        "cloud.log",
        "port",
        "start.lock",
    ]
    assert json.loads(run_cloud("stop", state).stdout) == {"stopped": False}
    assert json.loads(run_cloud("status", state).stdout)["running"] is False
    assert Cloud.start(state, "--no-hosts").endpoint == cloud.endpoint


def test_a_taken_port_is_one_line(state: Path) -> None:
    """The error names the port; nothing runs after it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cloud("start", state, "--no-hosts", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr
    assert json.loads(run_cloud("status", state).stdout)["running"] is False


def test_another_port_than_the_running_one_is_refused(state: Path) -> None:
    """A running cloud is not moved behind its users' backs."""
    cloud = Cloud.start(state, "--no-hosts")
    port = int(cloud.endpoint.rpartition(":")[2])
    assert run_cloud("start", state, "--port", str(port)).returncode == 0
    done = run_cloud("start", state, "--port", str(port + 1))
    assert (done.returncode, str(port) in done.stderr) == (1, True)


def test_a_stale_file_is_noticed(state: Path, tmp_path: Path) -> None:
    """cloud.json that names another state's cloud, or nobody, does not count as running."""
    other = Cloud.start(tmp_path / "other", "--no-hosts")
    try:
        state.mkdir()
        (state / "cloud.json").write_text(
            json.dumps({"endpoint": other.endpoint, "pid": other.pid, "started": 1.0, "state": str(state)})
        )
        assert json.loads(run_cloud("status", state).stdout)["running"] is False
        cloud = Cloud.start(state, "--no-hosts")
        assert cloud.pid != other.pid
    finally:
        run_cloud("stop", other.state)


@pytest.mark.parametrize("hosts", [["--no-hosts"], ["--host-command", STAND_IN]], ids=["api-only", "hosts"])
def test_a_killed_cloud_takes_its_hosts_and_the_next_says_what_is_lost(state: Path, hosts: list[str]) -> None:
    """kill -9 of the cloud: hosts end by themselves, the next start names the instances once, their disks are gone."""
    cloud = Cloud.start(state, *hosts)
    lost = sorted(ids(cloud.fleet(cloud.template("template"), count=2)))
    for instance_id in lost:
        cloud.wait_for_state(instance_id, "running")
    pids = [int(entry.read_text() or 0) for entry in (state / "instances").iterdir()]
    os.kill(cloud.pid, signal.SIGKILL)
    until(lambda: not any(lives(pid) for pid in [cloud.pid, *filter(None, pids)]))
    again = Cloud.start(state, *hosts)
    assert again.lost == lost
    assert again.endpoint == cloud.endpoint
    assert not list(state.glob("hosts/*"))
    assert Cloud.start(state, *hosts).lost == []
    assert again.ec2.describe_instances()["Reservations"] == []


def test_a_cloud_that_hangs_is_killed(state: Path) -> None:
    """stop ends a process that answers neither requests nor SIGTERM, by the number that holds the lock."""
    cloud = Cloud.start(state, "--no-hosts")
    os.kill(cloud.pid, signal.SIGSTOP)
    done = run_cloud("stop", state)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"stopped": True})
    assert not lives(cloud.pid)


def test_a_cloud_whose_state_is_removed_ends(state: Path) -> None:
    """Nobody could find it any more; stop waits for that."""
    cloud = Cloud.start(state, "--no-hosts")
    (state / "cloud.json").unlink()
    assert run_cloud("stop", state).returncode == 0
    until(lambda: not lives(cloud.pid))


def test_a_stop_ends_nobody_whom_a_stale_file_names(state: Path) -> None:
    """Who looks whether a cloud lives holds its lock for a moment, and is not taken for one."""
    state.mkdir(mode=0o700)
    bystander = subprocess.Popen(["sleep", "60"])
    record = {"endpoint": "http://127.0.0.1:9", "pid": bystander.pid, "started": 1.0, "state": str(state)}
    (state / "cloud.json").write_text(json.dumps(record))
    look = FileLock(state / "cloud.lock", thread_local=False)
    look.acquire()
    timer = threading.Timer(3.0, look.release)
    timer.start()
    try:
        assert run_cloud("stop", state).returncode == 0
        assert bystander.poll() is None
    finally:
        timer.join()
        bystander.kill()
        bystander.wait()


def test_a_start_waits_for_a_look_at_the_lock(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no cloud that already runs."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(daemon, "_run", lambda *_, **__: 0)
    place = Place.at(state)
    look = FileLock(place.serve_lock, thread_local=False)
    look.acquire()
    timer = threading.Timer(0.3, look.release)
    timer.start()
    assert daemon.serve(place, Options()) == 0
    timer.join()


def lives(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if sys.platform.startswith("linux"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
