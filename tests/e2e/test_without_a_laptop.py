"""A run that nobody watches: its host ends when that was promised, through restarts and killed laptops."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Gpuctl, in_account, the_error, wait_for


def instances(tool: Gpuctl) -> list[str]:
    """Those that cost something."""
    return in_account(tool.ec2()).get("instances", [])


def home_of(tool: Gpuctl, instance: str) -> Path:
    """The disk of an embedded host."""
    return tool.home / "state/cloud/hosts" / instance / "home"


@pytest.mark.prove
def test_outputs_are_kept_through_a_restart_and_then_the_host_ends(shared: Gpuctl, project: Path) -> None:
    """`-d --then down`: restarted while it trains, the host keeps what there is until it is pulled, and then goes."""
    words = ("--name", "kept", "-d", "--then", "down:0.1", "--", "python", "train.py", "100000")
    shared("launch", str(project), *words)
    (instance,) = instances(shared)
    outputs = home_of(shared, instance) / "gpuctl/work/outputs"
    wait_for((outputs / "checkpoint.pt").exists, what="a checkpoint")
    shared.ec2().reboot_instances(InstanceIds=[instance])
    tailed = wait_for(
        lambda: (answer := shared("tail", "kept", code=None)).code == 3 and answer, what="the word of the restart"
    )
    assert "the training of kept failed: its host was restarted meanwhile" in tailed.err
    (row,) = shared.json("ls")["runs"]
    assert (row["state"], row["why"]) == ("failed", "its host was restarted meanwhile")
    assert f"kept failed: {row['why']}" in shared("ls").out
    assert f"failed: {row['why']}" in shared("status", "kept").out
    assert instances(shared) == [instance]
    brought: Any = shared.json("pull", "kept", str(shared.folder / "home"))
    assert "outputs/checkpoint.pt" in brought["files"]
    wait_for(lambda: not instances(shared), what="the end of the host")
    assert "everything it wrote is in" in the_error(shared("pull", "kept", code=1))
    assert shared.json("down", "kept")["left"] == []


def test_a_launch_that_was_killed_at_its_start_goes_on_whatever_has_come_of_it(shared: Gpuctl, project: Path) -> None:
    """Nothing started: it starts. It trains: it goes on to train, once. Only the host knows, and it is asked."""
    words = ("launch", str(project), "--name", "cut", "-d", "--", "python", "train.py", "100000")
    process = shared.start(*words)
    progress = shared.home / "state/runs/cut/progress.json"
    wait_for(lambda: instances(shared), what="the host")
    (instance,) = instances(shared)
    root = home_of(shared, instance) / "gpuctl"
    wait_for((root / "provisioned.json").exists, what="the end of provision")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    started = (root / "run/1/state.json").exists()
    for expected in (started, True):
        # As a kill leaves it between that word and the host's answer.
        progress.write_text(json.dumps({**json.loads(progress.read_text()), "started": True, "start_answered": False}))
        before = json.loads((root / "run/1/state.json").read_text())["started"] if expected else None
        assert "cut has started" in shared(*words).out
        after = json.loads((root / "run/1/state.json").read_text())["started"]
        assert before in (None, after)
    assert instances(shared) == [instance]
    assert "in use" in shared(*words, code=2).err
    shared("down", "cut", "--discard", "-y")
    assert in_account(shared.ec2()) == {}
