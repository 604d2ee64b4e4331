"""A run that is left overnight: its laptop is dead, its host restarts once, and another laptop looks on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Answer, Gpuctl, in_account, wait_for


@pytest.fixture(scope="module")
def other(shared: Gpuctl) -> Gpuctl:
    """A second laptop with the same account: its home knows of no run, and has no key to one."""
    shared("cloud", "start")
    exports = dict(line.removeprefix("export ").split("=", 1) for line in shared("cloud", "env").out.splitlines())
    home = shared.folder / "other"
    environment = {**shared.environment, **exports, "GPUCTL_HOME": str(home), "GPUCTL_CLOUD": "aws"}
    return Gpuctl(home, shared.folder, environment)


@pytest.fixture(autouse=True)
def nothing_is_left(shared: Gpuctl, other: Gpuctl) -> Iterator[None]:
    """Whatever a test leaves where it fails."""
    yield
    if in_account(shared.ec2()):
        other("down", "--all", "-y", "--discard", code=None)


def row_of(tool: Gpuctl, run: str) -> dict[str, Any] | None:
    """What `ls` tells of a run; None where it tells that there is no host."""
    return next((row for row in tool.json("ls")["runs"] if row["run"] == run), None)


def says_no_more_than_it_knows(row: dict[str, Any] | None) -> bool:
    """A laptop without the key knows of the host alone: that it is there."""
    told = ("state", "seen", "seen_state", "why", "power_off_at")
    return row is not None and [row[name] for name in told] == ["host up", None, None, None, None]


def left_alone(shared: Gpuctl, project: Path, run: str, *then: str, steps: int) -> tuple[str, Path, Answer]:
    """A run whose laptop dies while it looks: its host's instance, the host's disk, what the launch said."""
    answer = shared(
        "launch", str(project), "--name", run, "-d", "--then", *then, "--", "python", "train.py", str(steps)
    )
    watching = shared.start("tail", run)
    os.killpg(watching.pid, signal.SIGKILL)
    watching.communicate()
    (instance,) = in_account(shared.ec2())["instances"]
    return instance, shared.home / "state/cloud/hosts" / instance / "home", answer


def boots(instance: str) -> set[int]:
    """The processes by which a boot of this host will end it."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"gpuctl-power-off" in words and instance.encode() in (entry / "environ").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_outputs_wait_for_a_laptop_through_a_restart(shared: Gpuctl, other: Gpuctl, project: Path) -> None:
    """`--then down`: restarted after its training, the host waits for the morning; pulled, it ends as promised."""
    instance, home, _ = left_alone(shared, project, "kept", "down:0.1", steps=40)
    assert says_no_more_than_it_knows(row_of(other, "kept"))
    wait_for((home / "gpuctl/run/1/exit.json").exists, what="the end of the training")
    made = (home / "gpuctl/work/outputs/checkpoint.pt").read_bytes()
    before = wait_for(lambda: boots(instance), what="the loop of the first boot")
    shared.befall(instance, "reboot")
    wait_for(lambda: (now := boots(instance)) and not now & before, what="the next boot")
    assert says_no_more_than_it_knows(row_of(other, "kept"))
    row = wait_for(lambda: (now := row_of(shared, "kept")) and now["state"] != "lost" and now, what="the host's word")
    assert (row["state"], row["why"], row["power_off_at"]) == ("succeeded", None, None)
    shared("pull", "kept", str(shared.folder / "home"))
    promised = datetime.now(timezone.utc).timestamp() + 6 + 2
    assert (shared.folder / "home/outputs/checkpoint.pt").read_bytes() == made

    def gone() -> bool:
        row = row_of(shared, "kept")
        assert row is None or row["state"] == "succeeded", "also while its host goes"
        if row is not None and row["power_off_at"] is not None:
            assert datetime.fromisoformat(row["power_off_at"].replace("Z", "+00:00")).timestamp() <= promised
        return row is None

    wait_for(gone, what="the end of the host", within_s=60)
    assert row_of(other, "kept") is None
    assert "instances" not in in_account(shared.ec2())
    whole = shared.json("status", "kept")
    assert (whole["state"], whole["hosts"]) == ("succeeded", [])
    assert shared.json("down", "kept")["left"] == []


@pytest.mark.prove
def test_a_host_that_may_drop_its_outputs_goes_though_it_was_restarted(
    shared: Gpuctl, other: Gpuctl, project: Path
) -> None:
    """`--then down --discard`, restarted in mid-training, its laptop lost for good: the host ends, `ls` tells of it."""
    instance, home, answer = left_alone(shared, project, "night", "down:0.05", "--discard", steps=100_000)
    assert "outputs not downloaded by then are lost" in " ".join(answer.err.split())
    assert (
        "or sooner, 0.05 min after training has ended; its security group and launch template cost nothing"
        in answer.out
    )
    wait_for((home / "gpuctl/work/outputs/checkpoint.pt").exists, what="a checkpoint")
    shutil.rmtree(shared.home / "state/runs/night")
    assert says_no_more_than_it_knows(row_of(other, "night"))
    shared.befall(instance, "reboot")

    def gone() -> bool:
        row = row_of(other, "night")
        assert row is None or row["state"] == "down" or says_no_more_than_it_knows(row), row
        return row is None

    wait_for(gone, what="the end of the host", within_s=60)
    assert set(in_account(shared.ec2())) == {"groups", "templates"}, "they cost nothing"
    assert other.json("down", "night", "--discard")["left"] == []
    assert in_account(shared.ec2()) == {}
