"""A launch looks at EC2 while it waits for its host: it ends with the reason, or goes on at the new address."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Answer, Gpuctl, in_account, the_error, wait_for


@pytest.fixture
def booting(shared: Gpuctl, project: Path) -> Callable[[str], tuple[subprocess.Popen[bytes], str]]:
    """Begins a launch that waits for a host whose SSH server says nothing; the process, and the instance's id."""

    def launch(name: str) -> tuple[subprocess.Popen[bytes], str]:
        shared("cloud", "start")
        words = ("--name", name, "-d", "--on-demand", "only", "--", "python", "train.py", "100000")
        process = shared.start("launch", str(project), *words)
        folder, ec2 = shared.home / "state/runs" / name, shared.ec2()
        known = wait_for(lambda: made_by(folder), what="the instance", within_s=120)
        os.kill(process.pid, signal.SIGSTOP)
        wait_for(lambda: state_of(ec2, known) == "running", what="a running host")
        shared.befall(known, "deafen")
        os.kill(process.pid, signal.SIGCONT)
        known_hosts = folder / "known_hosts"
        wait_for(lambda: known_hosts.read_text(), what="the wait for the boot", within_s=120)
        return process, known

    return launch


def made_by(folder: Path) -> str | None:
    """The instance that a launch has written down."""
    try:
        ids = json.loads((folder / "progress.json").read_text())["instance_ids"]
    except (OSError, ValueError):
        return None
    return str(ids[0]) if ids else None


def state_of(ec2: Any, instance_id: str) -> str:
    (held,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    return str(held["Instances"][0]["State"]["Name"])


def test_a_host_that_was_terminated_ends_the_launch(
    shared: Gpuctl, booting: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Within its wait, with EC2's reason, and everything is removed; throttling in between ends nothing."""
    process, instance = booting("gone")
    for _ in range(4):
        shared.fault(operation="DescribeInstances", code="RequestLimitExceeded", status=503)
    shared.ec2().terminate_instances(InstanceIds=[instance])
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1
    error = the_error(Answer(1, "", said.decode()))
    assert f"{instance} ended while gpuctl was waiting for it: somebody shut it down" in error
    assert in_account(shared.ec2()) == {}


@pytest.mark.prove
def test_a_host_that_is_at_another_address_by_now_is_found_there(
    shared: Gpuctl, booting: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """It was stopped and started meanwhile, and the caller's address is not let in any more: the launch goes on."""
    process, instance = booting("moved")
    ec2 = shared.ec2()
    os.kill(process.pid, signal.SIGSTOP)
    ec2.stop_instances(InstanceIds=[instance])
    wait_for(lambda: state_of(ec2, instance) == "stopped", what="the stop")
    (group,) = [g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] == "gpuctl-moved"]
    ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=group["IpPermissions"])
    ec2.start_instances(InstanceIds=[instance])
    wait_for(lambda: state_of(ec2, instance) == "running", what="the start")
    os.kill(process.pid, signal.SIGCONT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0 and b"has a new address" in said and b"your address has changed" in said
    shared("down", "moved", "-y", "--discard")
