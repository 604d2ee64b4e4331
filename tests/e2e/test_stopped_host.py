"""A host that was switched off keeps what is on its disk: it is started for that, or refused with what to type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Gpuctl, in_account, the_error, wait_for

TRAIN = """
import os, pathlib, time
(pathlib.Path(os.environ["GPUCTL_OUTPUTS"]) / "model.pt").write_bytes(b"model")
print("saved", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stopped(shared: Gpuctl) -> Iterator[Callable[[str], str]]:
    """Launches a run on demand that has saved its model, and has its host stopped; the instance's id."""
    project = shared.folder / "saves"
    project.mkdir(exist_ok=True)
    (project / "train.py").write_text(TRAIN)
    names = []

    def launch(name: str) -> str:
        names.append(name)
        words = ("--name", name, "-d", "--on-demand", "only", "--", "python", "train.py")
        (host,) = shared.json("launch", str(project), *words)["hosts"]
        switch_off(shared.ec2(), host["instance_id"])
        return str(host["instance_id"])

    yield launch
    shared.no_faults()
    shared("down", "-y", "--discard", *names, code=None)


def state_of(ec2: Any, instance_id: str) -> str:
    (held,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    return str(held["Instances"][0]["State"]["Name"])


def switch_off(ec2: Any, instance_id: str) -> None:
    ec2.stop_instances(InstanceIds=[instance_id])
    wait_for(lambda: state_of(ec2, instance_id) == "stopped", what="the end of the host's work")


def test_outputs_come_home_from_a_host_that_was_switched_off(
    shared: Gpuctl, stopped: Callable[[str], str], tmp_path: Path
) -> None:
    """`ls` says so, `tail` says what to type; `pull` and `down` start it, which costs, and bring the model home."""
    instance = stopped("off")
    (row,) = shared.json("ls")["runs"]
    assert (row["state"], row["price_usd_per_hour"]) == ("host stopped", None)
    assert shared.json("status", "off")["state"] == "host stopped"
    for words in (("tail", "off"), ("stop", "off"), ("ssh", "off", "--", "true")):
        error = the_error(shared(*words, code=1))
        assert "is stopped" in error and "`gpuctl pull off` starts it again" in error
    pull = shared("pull", "off", str(tmp_path / "home"))
    assert "starting it again, which costs money" in pull.err
    assert (tmp_path / "home/outputs/model.pt").read_bytes() == b"model"
    assert "saved" in shared("tail", "off", "--no-follow").out
    switch_off(shared.ec2(), instance)
    (tmp_path / "home/outputs/model.pt").unlink()
    down = shared("down", "off", "-y", "--json")
    assert "starting it" in down.err and json.loads(down.out)["left"] == []
    assert (tmp_path / "home/outputs/model.pt").read_bytes() == b"model"
    assert in_account(shared.ec2()) == {}


@pytest.mark.prove
def test_a_host_that_cannot_be_started_is_kept(shared: Gpuctl, stopped: Callable[[str], str]) -> None:
    """Where EC2 refuses, or the lease is over and the host would end itself, nothing is removed but by `--discard`."""
    instance, ec2 = stopped("kept"), shared.ec2()
    shared.fault(operation="StartInstances", code="IncorrectSpotRequestState", message="no such request", times=-1)
    for command in (("pull", "kept"), ("down", "kept", "-y")):
        error = the_error(shared(*command, code=1))
        assert "cannot be started" in error and "no such request" in error and "--discard" in error
    shared.no_faults()
    ec2.create_tags(Resources=[instance], Tags=[{"Key": "gpuctl:lease-ends", "Value": "2026-01-01T00:00:00Z"}])
    for command in (("pull", "kept"), ("down", "kept", "-y")):
        error = the_error(shared(*command, code=1))
        assert "its lease has ended" in error and instance in error and "--discard" in error
    assert state_of(ec2, instance) == "stopped"
    shared("down", "kept", "-y", "--discard")
    assert in_account(ec2) == {}
