"""What others see of a run: a client that gpuctl knows nothing of, a second laptop, plain ssh, a stranger's address."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import TRAIN, Gpuctl, wait_for


@pytest.fixture(scope="module")
def run(shared: Gpuctl) -> str:
    """A run that all look at; the last of them takes it down."""
    (shared.folder / "project").mkdir()
    (shared.folder / "project/train.py").write_text(TRAIN)
    shared("launch", "./project", "--name", "seen", "-d", "--", "python", "train.py", "100000")
    return "seen"


def test_an_instance_is_what_it_should_be(shared: Gpuctl, run: str) -> None:
    """One spot instance: tagged, IMDSv2 required, terminate on shutdown, encrypted disk, one rule, no key pair."""
    ec2 = shared.ec2()
    (instance,) = instances(ec2)
    tags = {t["Key"]: t["Value"] for t in instance["Tags"]}
    assert tags["gpuctl:run"] == run and tags["gpuctl:job"] and tags["gpuctl:owner"] and tags["gpuctl:lease-ends"]
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert "KeyName" not in instance
    behaviour = ec2.describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    (volume,) = ec2.describe_volumes()["Volumes"]
    (mapping,) = instance["BlockDeviceMappings"]
    assert mapping["Ebs"]["DeleteOnTermination"] and mapping["Ebs"]["VolumeId"] == volume["VolumeId"]
    assert volume["Encrypted"]
    assert {t["Key"] for t in volume["Tags"]} >= {"gpuctl:run"}
    (group,) = ec2.describe_security_groups(GroupIds=[g["GroupId"] for g in instance["SecurityGroups"]])[
        "SecurityGroups"
    ]
    (rule,) = group["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], [r["CidrIp"] for r in rule["IpRanges"]]) == (22, 22, ["127.0.0.1/32"])


def test_plain_ssh_reaches_the_host(shared: Gpuctl, run: str, tmp_path: Path) -> None:
    """`ssh -F`, `sftp -F` and rsync reach a run with the ssh_config that gpuctl wrote, host key verified."""
    config = shared.json("status", run)["ssh_config"]
    assert system("ssh", "-F", config, run, "cat gpuctl/run/log").startswith("step 1 ")
    (tmp_path / "batch").write_text(f"get gpuctl/run/log {tmp_path}/by-sftp\n")
    system("sftp", "-q", "-F", config, "-b", str(tmp_path / "batch"), run)
    assert (tmp_path / "by-sftp").read_text().startswith("step 1 ")
    if shutil.which("rsync"):
        system("rsync", "-a", "-e", f"ssh -F {config}", f"{run}:gpuctl/run/log", str(tmp_path / "by-rsync"))
        assert (tmp_path / "by-rsync").read_text().startswith("step 1 ")
    assert shared("ssh", run, "--", "cd gpuctl;  ls", "-d", "w*").out.strip() == "work"
    config_of_all = tmp_path / "config"
    config_of_all.write_text(shared("ssh", "--config").out)
    assert system("ssh", "-F", str(config_of_all), run, "echo here").strip() == "here"


def test_a_shell_is_in_the_workspace_with_its_virtualenv(shared: Gpuctl, run: str) -> None:
    """What a person types runs where the command runs, by the same Python; an option that opens no shell opens none."""
    typed = b'echo "<$PWD $(command -v python)>"; exit 5\n'
    code, seen = shared.on_a_terminal("ssh", run, typed=typed)
    assert code == 5 and re.search(rb"<\S+/gpuctl/work \S+/gpuctl/venv/bin/python>", seen), seen
    assert shared.on_a_terminal("ssh", run, "-G")[0] == 0


def test_another_host_key_is_refused(shared: Gpuctl, run: str, tmp_path: Path) -> None:
    """With another key pinned, every command that connects refuses and says why; `ls` works, `down` removes nothing."""
    known_hosts = shared.home / "state/runs" / run / "known_hosts"
    right = known_hosts.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    kind, key, *_ = (tmp_path / "other.pub").read_text().split()
    known_hosts.write_text(f"{right.split()[0]} {kind} {key}\n")
    try:
        for words in (["tail", run], ["pull", run], ["stop", run], ["metrics", run]):
            answer = shared(*words, code=1)
            assert "host key" in answer.err and len(answer.err.strip().splitlines()) <= 3
        assert "HOST IDENTIFICATION HAS CHANGED" in shared("ssh", run, "--", "true", code=255).err
        assert [r["run"] for r in shared.json("ls")["runs"]] == [run]
        assert "--discard" in shared("down", run, "-y", code=1).err
    finally:
        known_hosts.write_text(right)


def test_the_security_group_decides_who_connects(shared: Gpuctl, run: str) -> None:
    """127.0.0.2 is refused until the rule names it, and then 127.0.0.1 is; gpuctl lets its caller in anew."""
    config = Path(shared.json("status", run)["ssh_config"]).read_text()
    port = int(next(line.split()[1] for line in config.splitlines() if line.split()[:1] == ["Port"]))
    assert (banner("127.0.0.1", port), banner("127.0.0.2", port)) == (True, False)
    ec2 = shared.ec2()
    group = instances(ec2)[0]["SecurityGroups"][0]["GroupId"]
    rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[{**rule, "IpRanges": [{"CidrIp": "127.0.0.1/32"}]}])
    ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[{**rule, "IpRanges": [{"CidrIp": "127.0.0.2/32"}]}]
    )
    assert (banner("127.0.0.1", port), banner("127.0.0.2", port)) == (False, True)
    answer = shared("tail", run, "--no-follow")
    assert "your address has changed" in answer.err and "step" in answer.out
    assert (banner("127.0.0.1", port), banner("127.0.0.2", port)) == (True, False)


def test_a_second_laptop_needs_the_account_alone(shared: Gpuctl, run: str, tmp_path: Path) -> None:
    """With the account's exports and an empty home, `ls` shows the run, `down` refuses, `down --discard` removes it."""
    exports = [line.removeprefix("export ").split("=", 1) for line in shared("cloud", "env").out.splitlines()]
    other = {**dict(exports), "GPUCTL_HOME": str(tmp_path / "other"), "GPUCTL_CLOUD": "aws"}
    (row,) = json.loads(shared("ls", "--json", **other).out)["runs"]
    assert (row["run"], row["state"], row["seen"]) == (run, "host up", None)
    status = json.loads(shared("status", run, "--json", **other).out)
    assert status["state"] == "host up" and "host up" in shared("ls", **other).out
    assert status["losses"] is None and status["exit_code"] is None
    refused = shared("down", run, "-y", code=1, **other)
    assert "no key" in refused.err and "--discard" in refused.err and "an hour" in refused.err
    assert json.loads(shared("down", run, "-y", "--discard", "--json", **other).out)["left"] == []
    assert json.loads(shared("ls", "--json", **other).out)["runs"] == []
    ec2 = shared.ec2()
    assert instances(ec2) == []
    assert [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]] == ["default"]
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert ec2.describe_volumes()["Volumes"] == []


@pytest.mark.parametrize("lease_s", [25])
def test_a_host_ends_itself_at_its_deadline(gpuctl: Gpuctl, launched: Callable[..., str], lease_s: int) -> None:
    """With no laptop process at all, a host is gone soon after its lease's end, EC2 says terminated, and what this
    laptop shows of it is said to be no more than what came before."""
    run = launched("--max-hours", str(lease_s / 3600))
    gpuctl("metrics", run)
    ec2 = gpuctl.ec2()
    assert len(instances(ec2)) == 1
    wait_for(lambda: not instances(ec2), within_s=lease_s + 30, what="the end of the host")
    for words in (("metrics", run), ("tail", run, "--no-follow")):
        answer = gpuctl(*words)
        assert "train" in answer.out and "showing what had arrived by then" in answer.err


def instances(ec2: Any) -> list[Any]:
    """The instances that are not terminated."""
    held = ec2.describe_instances()["Reservations"]
    return [i for r in held for i in r["Instances"] if i["State"]["Name"] != "terminated"]


def banner(source: str, port: int) -> bool:
    """Whether an SSH server greets a client that comes from this address."""
    with socket.socket() as client:
        client.settimeout(10)
        client.bind((source, 0))
        try:
            client.connect(("127.0.0.1", port))
            return client.recv(64).startswith(b"SSH-2.0-")
        except OSError:
            return False


def system(*words: str) -> str:
    """What one of the system's own programs prints; it must succeed, and asks nobody."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr!r}"
    return done.stdout.decode()
