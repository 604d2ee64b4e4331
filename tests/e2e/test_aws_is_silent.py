"""AWS does not answer, or not any more, and the host is well: what the host alone can answer is asked of it alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import Answer, Gpuctl, in_account, the_error, wait_for

ASKED = (
    "DescribeInstances",
    "DescribeSpotPriceHistory",
    "DescribeSecurityGroups",
    "DescribeLaunchTemplates",
    "DescribeVolumes",
    "DescribeNetworkInterfaces",
    "GetCallerIdentity",
)
SILENCE: dict[str, dict[str, Any]] = {
    "credentials that expired": {"code": "ExpiredToken", "message": "The security token has expired"},
    "throttling": {"code": "RequestLimitExceeded", "status": 503},
    "no answer": {"drop": True},
}

TRAIN = """
import os, pathlib, sys, time
for step in range(1, 4):
    print(f"step {step}  epoch 1.00  train loss {1 / step:.4f}  val loss 2.0000", flush=True)
outputs = pathlib.Path(os.environ["GPUCTL_OUTPUTS"])
(outputs / "model.pt").write_bytes(b"model")
while not (outputs / "end").exists() and len(sys.argv) > 1:
    time.sleep(0.05)
print("the end", flush=True)
"""


@pytest.fixture(scope="module")
def waiting(shared: Gpuctl) -> Iterator[Callable[[str], Path]]:
    """Launches runs that train until a file `end` is among their outputs; that folder, as the host has it."""
    project = shared.folder / "waiting"
    project.mkdir()
    (project / "train.py").write_text(TRAIN)
    names = []

    def launch(name: str) -> Path:
        names.append(name)
        shared("launch", str(project), "--name", name, "-d", "--", "python", "train.py", "wait")
        (row,) = (row for row in shared.json("ls")["runs"] if row["run"] == name)
        return shared.home / f"state/cloud/hosts/{row['hosts'][0]['instance_id']}/home/gpuctl/work/outputs"

    yield launch
    shared.no_faults()
    shared("down", "-y", "--discard", *names, code=None)


@pytest.fixture
def silent(shared: Gpuctl) -> Iterator[Callable[[str], None]]:
    """Silences AWS, in the way that is named, until the test ends."""

    def silence(way: str) -> None:
        for operation in ASKED:
            shared.fault(operation=operation, times=-1, **SILENCE[way])

    yield silence
    shared.no_faults()


def test_what_the_host_can_answer_needs_no_aws(
    shared: Gpuctl, waiting: Callable[[str], Path], silent: Callable[[str], None]
) -> None:
    """tail, watch, metrics, pull, stop and ssh work as ever, whatever AWS does."""
    outputs = waiting("well")
    for way in SILENCE:
        shared.no_faults()
        silent(way)
        assert "outputs/model.pt" in shared.json("pull", "well", way)["files"]
    assert "train loss 0.3333" in shared("tail", "well", "--no-follow").out
    assert len(shared("metrics", "well", "--json").out.splitlines()) == 6
    assert shared("ssh", "well", "--", "echo", "hello").out == "hello\n"
    followers = [shared.start("tail", "well"), shared.start("watch", "well")]
    assert followers[0].stdout is not None and followers[0].stdout.readline()
    (outputs / "end").touch()
    for process in followers:
        said = process.communicate(timeout=60)
        assert process.returncode == 0 and b"Traceback" not in said[1], said
    assert "the end" in shared("tail", "well", "--no-follow").out
    assert "succeeded" in shared("stop", "well").out


def test_a_run_is_home_though_the_credentials_expire_while_it_trains(
    shared: Gpuctl, waiting: Callable[[str], Path], silent: Callable[[str], None]
) -> None:
    """`launch --pull --down`: the outputs are home, what could not be removed is said, and one command finishes it."""
    project, home = shared.folder / "waiting", shared.folder / "expired"
    words = ("--name", "expired", "-y", "--pull", str(home), "--down", "--", "python", "train.py", "wait")
    process = shared.start("launch", str(project), *words)
    assert process.stdout is not None and b"step 1" in process.stdout.readline()
    (row,) = (row for row in shared.json("ls")["runs"] if row["run"] == "expired")
    silent("credentials that expired")
    disk = shared.home / f"state/cloud/hosts/{row['hosts'][0]['instance_id']}"
    (disk / "home/gpuctl/work/outputs/end").touch()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 5, said
    error = the_error(Answer(5, "", said.decode()))
    assert "the AWS credentials have expired" in error and str(home) in error
    assert "`gpuctl down expired` removes it" in error
    assert (home / "outputs/model.pt").read_bytes() == b"model"
    shared.no_faults()
    assert json.loads(shared("down", "expired", "-y", "--json").out)["left"] == []


def test_a_host_is_gone_only_where_aws_says_so(
    shared: Gpuctl, waiting: Callable[[str], Path], silent: Callable[[str], None]
) -> None:
    """Both are silent: it is tried again, and goes on once AWS tells. The host is terminated: it ends and says so."""
    waiting("unsure")
    ec2 = shared.ec2()
    shared("tail", "unsure", "--no-follow")
    (group,) = [g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] == "gpuctl-unsure"]
    ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=group["IpPermissions"])
    silent("credentials that expired")
    with shared.start("tail", "unsure") as process:
        assert process.stdout is not None and process.stderr is not None
        told = process.stderr.readline()
        assert b"does not answer" in told and b"the AWS credentials have expired" in told
        assert b"trying again" in told
        shared.no_faults()
        assert b"your address has changed" in process.stderr.readline()
        instance = shared.json("ls")["runs"]
        (held,) = [row["hosts"][0]["instance_id"] for row in instance if row["run"] == "unsure"]
        ec2.terminate_instances(InstanceIds=[held])
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run unsure no longer has a host" in said.decode()
    wait_for(lambda: held not in in_account(ec2).get("instances", []), what="the end of the host")
