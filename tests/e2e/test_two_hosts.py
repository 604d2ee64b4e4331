"""A run with two hosts: each is saved before either is removed, and each is reached under a name of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Answer, Gpuctl, in_account, the_error, wait_for

from gpuctl import web
from gpuctl.core.hosts import SSHTarget
from gpuctl.core.tags import parse_iso
from gpuctl.core.uploads import UploadContent
from gpuctl.remote.host import Host
from gpuctl.remote.payload import build_payload
from gpuctl.remote.upload import workspace_tar
from gpuctl.state.runs import RunFolder
from tests.jobs.conftest import ROOT


def second_host(gpuctl: Gpuctl, run: str, project: Path, *, steps: int = 2000) -> str:
    """A second instance of the run's own template, made by hand: it boots with the run's keys, and trains too."""
    ec2, folder = gpuctl.ec2(), gpuctl.home / "state/runs" / run
    (template,) = ec2.describe_launch_templates(Filters=[{"Name": "tag:gpuctl:run", "Values": [run]}])[
        "LaunchTemplates"
    ]
    made = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"]},
        InstanceType="g6.xlarge",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": template["Tags"]}],
    )
    instance = str(made["Instances"][0]["InstanceId"])
    with host_of(gpuctl, instance, folder) as host:
        host.wait_until_reachable(time.monotonic() + 60)
        host.put_payload(build_payload(ROOT / "provisioning"))
        record = json.loads((folder / "run.json").read_text())["plan"]
        request = {
            "run": run,
            "deadline": parse_iso(record["lease"]["ends"]).timestamp(),
            "requirements": [],
            "requires_python": None,
            "command": ["python", "train.py", str(steps)],
            "env": {},
            "outputs": {"paths": None, "exclude": [], "checkpoints": ["*.pt"]},
            "gpu": True,
            "idle_s": 1800,
            "discard": False,
            "files": True,
        }
        with workspace_tar(UploadContent({"train.py": str(project / "train.py")}), on_missing=print) as body:
            host.call("provision", request, body=body)
        host.call("start", {})
    return instance


def host_of(gpuctl: Gpuctl, instance: str, folder: Path) -> Host:
    """A connection of the test's own to an embedded host, by the run's key."""

    def place() -> Any:
        try:
            url = f"{gpuctl.endpoint()}/gpuctl/hosts/{instance}"
            return json.loads(web.get(url, limit=4096, timeout_s=5, key=gpuctl.cloud().key))
        except OSError:
            return None

    wait_for(lambda: place() is not None, within_s=60, what="the host in the cloud's directory")
    found = place()
    pinned = " ".join((folder / "known_hosts").read_text().split()[1:3])
    known = folder.parent.parent / f"known-{instance}"
    known.write_text(f"[{found['address']}]:{found['port']} {pinned}\n")
    target = SSHTarget(instance, found["address"], int(found["port"]), "ubuntu")
    return Host(target, identity_file=folder / "identity", known_hosts_file=known)


def test_both_hosts_of_a_run_are_saved_before_either_is_removed(
    gpuctl: Gpuctl, project: Path, launched: Callable[..., str]
) -> None:
    """While one of two cannot be saved nothing is removed. Then every command takes both, each by a name of its own."""
    run = launched(name="two")
    second = second_host(gpuctl, run, project)
    gpuctl.befall(second, "deafen")
    refused = the_error(gpuctl("down", run, "-y", code=1))
    assert "could not get the outputs of run" in refused
    assert len(in_account(gpuctl.ec2())["instances"]) == 2
    gpuctl.befall(second, "heal")

    config = gpuctl.home / "state/runs" / run / "ssh_config"
    aliases = [line.split()[1] for line in config.read_text().splitlines() if line.startswith("Host ")]
    assert aliases == [run, f"{run}-1"]
    ssh = ["ssh", "-F", str(config), f"{run}-1", "echo", "here"]
    assert subprocess.run(ssh, capture_output=True, text=True, timeout=60, check=True).stdout == "here\n"
    assert f"{run}-1 stopped" in gpuctl("stop", run).out
    assert {line[:4] for line in gpuctl("tail", run, "-n", "3").out.splitlines()} == {"[0] ", "[1] "}
    (other,) = gpuctl.json("pull", run, "home")["others"]
    assert other["complete"] and "outputs/checkpoint.pt" in other["files"]

    answer = gpuctl.json("down", run, "-y")
    assert answer["left"] == [] and sum(one["kind"] == "instance" for one in answer["removed"]) == 2
    home = gpuctl.folder / "home"
    for folder in (home, home / "host-1"):
        assert (folder / "outputs/checkpoint.pt").stat().st_size == 200_000
        assert "train loss" in (folder / "gpuctl/log").read_text()
    kept = gpuctl.home / "state/runs" / run / "hosts"
    assert all("train loss" in (kept / number / "log").read_text() for number in ("0", "1"))


@pytest.mark.prove
def test_a_host_that_is_lost_does_not_keep_what_the_other_has(
    gpuctl: Gpuctl, project: Path, launched: Callable[..., str]
) -> None:
    """One of two is deaf, then gone: the other's files and log come, it is stopped, and what is missing is named."""
    run = launched(name="half", steps=50_000)
    second = second_host(gpuctl, run, project, steps=50_000)
    folder = RunFolder(gpuctl.home / "state/runs" / run)
    folder.note(instance_ids=(*folder.progress().instance_ids, second))
    gpuctl.befall(second, "deafen")
    pulled = gpuctl("pull", run, "home", "--json", code=1)
    assert "downloaded from host 1 of half: half-1 (127.0.0.1" in the_error(pulled)
    answer = json.loads(pulled.out)
    (other,) = answer["others"]
    assert "gpuctl/log" in answer["files"] and (answer["host"], answer["error"]) == (0, None)
    assert other["host"] == 1 and "does not answer" in other["error"] and not other["complete"]
    gpuctl.befall(second, "heal")

    following = gpuctl.start("tail", run, "-n", "0")
    assert following.stdout is not None
    seen = set[bytes]()
    while seen != {b"[0]", b"[1]"}:
        seen.add(following.stdout.readline()[:3])
    gpuctl.ec2().terminate_instances(InstanceIds=[second])
    wait_for(lambda: second not in in_account(gpuctl.ec2())["instances"], what="the end of the second host")
    stopped = gpuctl("stop", run, "--json", code=1)
    answer = json.loads(stopped.out)
    assert (answer["state"], [one["host"] for one in answer["others"]]) == ("stopped", [1])
    assert "not stopped: host 1 of half: run half-1 no longer has a host" in the_error(stopped)
    out, err = following.communicate(timeout=60)
    said = Answer(following.returncode, out.decode(), err.decode())
    assert said.code == 1 and "no more log from host 1: " in said.err
    assert "[0] saved at step" in said.out and "the log is incomplete: host 1 of half: " in the_error(said)
    assert "nothing is left" in gpuctl("down", run, "-y").out
