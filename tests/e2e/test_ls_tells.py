"""`ls` tells what is so: asked of the host, else what is known, and never `running` of what does not train."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Gpuctl, wait_for

TRAIN = """
import os, pathlib, time
print("begun", flush=True)
while not (pathlib.Path(os.environ["GPUCTL_OUTPUTS"]) / "end").exists():
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def three(shared: Gpuctl) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Three runs that train until a file `end` is among their outputs; a run's row as `ls` has it now."""
    project = shared.folder / "project"
    project.mkdir()
    (project / "train.py").write_text(TRAIN)
    names = ("ends", "trains", "freezes")
    processes = [
        shared.start("launch", str(project), "--name", name, "-d", "--", "python", "train.py") for name in names
    ]
    assert [process.communicate(timeout=240) and process.returncode for process in processes] == [0, 0, 0]
    yield lambda name: next(row for row in shared.json("ls")["runs"] if row["run"] == name)
    shared("down", "-y", "--discard", *names, "half", code=None)


def disk(shared: Gpuctl, row: dict[str, Any]) -> Path:
    return shared.home / "state/cloud/hosts" / row["hosts"][0]["instance_id"] / "home"


def end_of_host(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["power_off_at"].replace("Z", "+00:00")).timestamp()


def test_a_run_that_ended_is_not_running(shared: Gpuctl, three: Callable[[str], dict[str, Any]]) -> None:
    """Nobody has followed it: `ls` asks its host, and knows from then on; without its key one knows of the host."""
    wait_for(lambda: three("ends")["state"] == "running", what="an answer")
    (disk(shared, three("ends")) / "gpuctl/work/outputs/end").touch()
    wait_for(lambda: three("ends")["state"] == "succeeded", what="the end")
    assert (three("ends")["why"], three("ends")["power_off_at"]) == (None, None)
    shared("pull", "ends", str(shared.folder / "ends"))
    assert time.time() < end_of_host(three("ends")) <= time.time() + 1801, "half an hour after the pull"
    assert json.loads((shared.home / "state/runs/ends/progress.json").read_text())["exit_code"] == 0
    exports = [line.removeprefix("export ").split("=", 1) for line in shared("cloud", "env").out.splitlines()]
    other = {**dict(exports), "GPUCTL_HOME": str(shared.folder / "other"), "GPUCTL_CLOUD": "aws"}
    rows = {row["run"]: row for row in json.loads(shared("ls", "--json", **other).out)["runs"]}
    assert {(row["state"], row["seen"], row["seen_state"]) for row in rows.values()} == {("host up", None, None)}
    assert list((shared.folder / "other").rglob("*.lock")) == []


def test_a_frozen_host_keeps_no_other_waiting(shared: Gpuctl, three: Callable[[str], dict[str, Any]]) -> None:
    """It is `lost`, with what it said last; the others' rows are the hosts' own word."""
    wait_for(lambda: three("freezes")["state"] == "running", what="an answer")
    instance = three("freezes")["hosts"][0]["instance_id"]
    seen = three("freezes")["seen"]
    shared.befall(instance, "freeze")
    try:
        row = three("freezes")
        assert (row["state"], row["seen_state"]) == ("lost", "running") and row["seen"] >= seen
        assert "lost, last seen at " in shared("ls").out
        wait_for(lambda: three("trains")["state"] == "running", what="an answer of another")
    finally:
        shared.befall(instance, "heal")
    wait_for(lambda: three("freezes")["state"] == "running", what="an answer again")


@pytest.mark.prove
def test_a_host_on_which_nothing_was_started_is_up(shared: Gpuctl, three: Callable[[str], dict[str, Any]]) -> None:
    """kill -9 on the launch once its host boots: while it lives it is starting; afterwards its host is up, no more.

    The same where the laptop died just before the start: it had written down that it starts.
    """
    folder = shared.home / "state/runs/half"
    words = ("launch", str(shared.folder / "project"), "--name", "half", "-d", "--", "python", "train.py")
    process = shared.start(*words)
    known_hosts = folder / "known_hosts"
    wait_for(lambda: known_hosts.exists() and known_hosts.read_text(), what="the boot", within_s=120)
    os.kill(process.pid, signal.SIGSTOP)
    assert three("half")["state"] == "starting"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: three("half")["state"] == "host up", what="an answer of the half-made one")
    progress = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**progress, "started": True}))
    assert three("half")["state"] in ("host up", "lost")
    wait_for(lambda: shared.json("status", "half")["state"] == "host up", what="an answer to status")
    assert "None" not in shared("status", "half").out
