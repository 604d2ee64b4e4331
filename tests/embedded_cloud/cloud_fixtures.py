"""Embedded clouds for tests: real processes, reached over HTTP by boto3, ended with whatever they started."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from gpuctl.core.cloud_key import ACCESS_KEY_ID, host_words, prove, request_headers

REGION = "us-east-1"
DLAMI = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
STAND_IN = json.dumps([sys.executable, str(Path(__file__).with_name("stand_in_host.py")), "gpuctl.embedded_cloud.host"])


def run_cloud(verb: str, state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m gpuctl.embedded_cloud VERB --state STATE WORDS`, to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GPUCTL_"))}
    command = [sys.executable, "-m", "gpuctl.embedded_cloud", verb, "--state", str(state), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


def answered(request: urllib.request.Request) -> tuple[int, str]:
    """The status and the text of the answer, an error's too."""
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass
class Cloud:
    """A running cloud and what a test asks of it."""

    state: Path
    endpoint: str
    pid: int
    lost: list[str]
    clients: dict[tuple[str, str], Any] = field(default_factory=dict)

    @classmethod
    def start(cls, state: Path, *words: str) -> Cloud:
        done = run_cloud("start", state, *words)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        return cls(state=state, endpoint=answer["endpoint"], pid=answer["pid"], lost=answer["lost"])

    def client(self, service: str, region: str = REGION) -> Any:
        """A boto3 client that gives up at once, so that a test sees the first answer."""
        key = (service, region)
        if key not in self.clients:
            self.clients[key] = boto3.client(
                service,
                region_name=region,
                endpoint_url=self.endpoint,
                aws_access_key_id=ACCESS_KEY_ID,
                aws_secret_access_key=self.key,
                config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
            )
        return self.clients[key]

    @property
    def key(self) -> str:
        """What its owner alone can read."""
        return str(json.loads((self.state / "cloud.json").read_text())["key"])

    def metadata(self, instance_id: str) -> str:
        """The path below which an instance's host finds its metadata."""
        return f"/imds/{instance_id}/{prove(self.key, *host_words(instance_id))}/latest"

    @property
    def ec2(self) -> Any:
        return self.client("ec2")

    def ask(
        self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """An HTTP request of the cloud's owner: the status and the text of the answer."""
        data = None if body is None else json.dumps(body).encode()
        url = self.endpoint + path
        sent = {**request_headers(self.key, method, url), **(headers or {})}
        return answered(urllib.request.Request(url, data=data, method=method, headers=sent))

    def fault(self, **values: Any) -> None:
        status, text = self.ask("/gpuctl/faults", method="POST", body=values)
        assert status == 201, text

    def group(self, name: str, *, cidr: str = "127.0.0.1/32") -> str:
        """A security group that lets `cidr` in on port 22."""
        group_id = self.ec2.create_security_group(GroupName=name, Description=name)["GroupId"]
        ranges = {"Ipv6Ranges": [{"CidrIpv6": cidr}]} if ":" in cidr else {"IpRanges": [{"CidrIp": cidr}]}
        permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges}
        self.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[permission])
        return str(group_id)

    def template(self, name: str, *, groups: list[str] | None = None, **data: Any) -> str:
        """A launch template as gpuctl makes them."""
        image = self.client("ssm").get_parameter(Name=DLAMI)["Parameter"]["Value"]
        tags = [{"Key": "gpuctl:run", "Value": name}]
        whole = {
            "ImageId": image,
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/sda1",
                    "Ebs": {"VolumeSize": 100, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
                }
            ],
            "UserData": base64.b64encode(b"#cloud-config\n{}\n").decode(),
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
            ],
            **({"SecurityGroupIds": groups} if groups else {}),
            **data,
        }
        answer = self.ec2.create_launch_template(
            LaunchTemplateName=name,
            LaunchTemplateData=whole,
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
        )
        return str(answer["LaunchTemplate"]["LaunchTemplateId"])

    def fleet(
        self,
        template_id: str,
        *overrides: dict[str, Any],
        count: int = 1,
        market: str = "spot",
        options: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """CreateFleet, type instant."""
        config = {
            "LaunchTemplateSpecification": {"LaunchTemplateId": template_id, "Version": "$Latest"},
            "Overrides": list(overrides) or [{"InstanceType": "g5.xlarge", "AvailabilityZone": "us-east-1a"}],
        }
        key = "SpotOptions" if market == "spot" else "OnDemandOptions"
        strategy = "price-capacity-optimized" if market == "spot" else "lowest-price"
        answer = self.ec2.create_fleet(
            **{
                "Type": "instant",
                "LaunchTemplateConfigs": [config],
                "TargetCapacitySpecification": {
                    "TotalTargetCapacity": count,
                    "DefaultTargetCapacityType": market,
                },
                key: {"AllocationStrategy": strategy, **(options or {})},
                **more,
            }
        )
        return dict(answer)

    def instance(self, instance_id: str) -> dict[str, Any]:
        reservations = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        return dict(reservations[0]["Instances"][0])

    def wait_for_state(self, instance_id: str, state: str, *, timeout_s: float = 15.0) -> dict[str, Any]:
        """The instance once it is in the state."""
        return until(
            lambda: (found := self.instance(instance_id))["State"]["Name"] == state and found, timeout_s=timeout_s
        )


def until(condition: Callable[[], Any], *, timeout_s: float = 15.0) -> Any:
    """What the condition gives once it is true. Raises AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def ids(answer: dict[str, Any]) -> list[str]:
    """The instances of a CreateFleet's answer."""
    return [instance_id for entry in answer["Instances"] for instance_id in entry["InstanceIds"]]


@pytest.fixture(scope="session")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One cloud without hosts for all tests that make their own resources in it."""
    state = tmp_path_factory.mktemp("api") / "cloud"
    yield Cloud.start(state, "--no-hosts")
    assert run_cloud("stop", state).returncode == 0


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Iterator[Cloud]:
    """The shared cloud, without faults left by another test."""
    yield shared_cloud
    shared_cloud.ask("/gpuctl/faults", method="DELETE")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder for a cloud of the test's own, which ends with the test."""
    folder = tmp_path / "cloud"
    yield folder
    assert run_cloud("stop", folder).returncode == 0
