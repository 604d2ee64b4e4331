"""A run with two hosts: each is saved before either is removed, and each is reached under a name of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e_tool import Gpuctl, in_account, the_error, wait_for

from gpuctl import web
from gpuctl.core.hosts import SSHTarget
from gpuctl.core.tags import parse_iso
from gpuctl.core.uploads import UploadContent
from gpuctl.remote.host import Host
from gpuctl.remote.payload import build_payload
from gpuctl.remote.upload import workspace_tar
from tests.jobs.conftest import ROOT


def second_host(gpuctl: Gpuctl, run: str, project: Path) -> str:
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
            "command": ["python", "train.py", "2000"],
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
    assert "cannot be asked for its outputs" in refused
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
