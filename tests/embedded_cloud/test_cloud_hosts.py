"""What the cloud does with its hosts' processes, seen with a host of a few lines."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_fixtures import STAND_IN, Cloud, ids, run_cloud, until


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud whose hosts are the stand-in."""
    folder = tmp_path_factory.mktemp("hosting") / "cloud"
    yield Cloud.start(folder, "--host-command", STAND_IN, "--cache", str(folder.parent / "cache"))
    assert run_cloud("stop", folder).returncode == 0


def launch(cloud: Cloud, behaviour: str | bytes = "", *, market: str = "spot", **data: Any) -> str:
    raw = behaviour.encode() if isinstance(behaviour, str) else behaviour
    text = base64.b64encode(raw).decode()
    template_id = cloud.template(f"t-{uuid.uuid4()}", UserData=text, **data)
    return ids(cloud.fleet(template_id, market=market))[0]


def disk(cloud: Cloud, instance_id: str) -> Path:
    return cloud.state / "hosts" / instance_id


def test_a_host_is_given_what_it_needs(hosting: Cloud) -> None:
    """Its socket, its disk, whom to ask about callers, where its metadata is, and what its image brings."""
    instance_id = launch(hosting, "hello")
    hosting.wait_for_state(instance_id, "running")
    config = json.loads((disk(hosting, instance_id) / "config.json").read_text())
    assert config["instance_id"] == config["mark"] == instance_id
    metadata = hosting.metadata(instance_id).removesuffix("/latest")
    token = metadata.rpartition("/")[2]
    assert config["imds_url"] == hosting.endpoint + metadata
    assert config["admits_url"] == f"{hosting.endpoint}/gpuctl/hosts/{instance_id}/admits?token={token}"
    assert config["user_data"] == "hello"
    assert config["env"]["GPUCTL_ENVIRONMENTS"] == str(hosting.state.parent / "cache" / "environments")
    first = Path(config["env"]["PATH"].split(":")[0])
    assert (first / "python3").exists()
    assert not any(name.startswith("AWS_") for name in config["environ"])
    address = json.loads(hosting.ask(f"/gpuctl/hosts/{instance_id}")[1])
    with socket.create_connection((address["address"], address["port"]), timeout=5):
        pass


@pytest.mark.parametrize(
    ("raw", "read"),
    [(gzip.compress(b"hello"), "hello"), (b"\x1f\x8b\x00\xff", "\x1f\ufffd\x00\ufffd"), (b"x" * 16384, "x" * 16384)],
    ids=["gzip", "no-text", "longest"],
)
def test_user_data_may_be_binary(hosting: Cloud, raw: bytes, read: str) -> None:
    """A gzip is read as cloud-init reads it, and what is no text boots as well."""
    instance_id = launch(hosting, raw)
    hosting.wait_for_state(instance_id, "running")
    config = json.loads((disk(hosting, instance_id) / "config.json").read_text())
    assert config["user_data"] == read
    told = hosting.ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
    assert base64.b64decode(told["UserData"]["Value"]) == raw


def test_terminate_ends_the_host_and_removes_its_disk(hosting: Cloud) -> None:
    """By the time an instance is terminated there is no disk, no port and no way to ask for it."""
    instance_id = launch(hosting)
    hosting.wait_for_state(instance_id, "running")
    address = json.loads(hosting.ask(f"/gpuctl/hosts/{instance_id}")[1])
    hosting.ec2.terminate_instances(InstanceIds=[instance_id])
    hosting.wait_for_state(instance_id, "terminated")
    assert not disk(hosting, instance_id).exists()
    assert hosting.ask(f"/gpuctl/hosts/{instance_id}")[0] == 404
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address["address"], address["port"]), timeout=5)


def test_an_instance_may_be_terminated_while_it_boots(hosting: Cloud) -> None:
    """A launch that is undone at once leaves no host behind."""
    instance_id = launch(hosting)
    hosting.ec2.terminate_instances(InstanceIds=[instance_id])
    hosting.wait_for_state(instance_id, "terminated")
    assert not disk(hosting, instance_id).exists()


@pytest.mark.parametrize(
    ("behaviour", "state", "kept"), [("terminate", "terminated", False), ("stop", "stopped", True)]
)
def test_a_power_off_follows_the_shutdown_behaviour(hosting: Cloud, behaviour: str, state: str, kept: bool) -> None:
    """A host that powers off is terminated or stopped, as its template says."""
    instance_id = launch(hosting, "poweroff", market="on-demand", InstanceInitiatedShutdownBehavior=behaviour)
    ended = hosting.wait_for_state(instance_id, state)
    assert ended["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert disk(hosting, instance_id).exists() is kept


def test_a_stopped_instance_boots_again_from_its_disk(hosting: Cloud) -> None:
    """Stop keeps the disk; start boots from it."""
    instance_id = launch(hosting, market="on-demand")
    hosting.wait_for_state(instance_id, "running")
    hosting.ec2.stop_instances(InstanceIds=[instance_id])
    hosting.wait_for_state(instance_id, "stopped")
    hosting.ec2.start_instances(InstanceIds=[instance_id])
    hosting.wait_for_state(instance_id, "running")
    assert (disk(hosting, instance_id) / "boots").read_text() == "boot\n" * 2


def test_a_reboot_keeps_instance_disk_and_port(hosting: Cloud) -> None:
    """A host that reboots itself comes back where it was."""
    instance_id = launch(hosting, "reboot-once")
    hosting.wait_for_state(instance_id, "running")
    boots = disk(hosting, instance_id) / "boots"
    port = json.loads(hosting.ask(f"/gpuctl/hosts/{instance_id}")[1])["port"]
    until(lambda: boots.read_text() == "boot\n" * 2)
    hosting.ec2.reboot_instances(InstanceIds=[instance_id])
    until(lambda: boots.read_text() == "boot\n" * 3)
    assert hosting.instance(instance_id)["State"]["Name"] == "running"
    assert json.loads(hosting.ask(f"/gpuctl/hosts/{instance_id}")[1])["port"] == port


@pytest.mark.parametrize(("behaviour", "said"), [("boot-error", "unknown key runcmd"), ("crash", "crash")])
def test_a_host_that_fails_is_lost_and_says_why(hosting: Cloud, behaviour: str, said: str) -> None:
    """The instance ends with a reason that a person can act on."""
    instance_id = launch(hosting, behaviour)
    ended = hosting.wait_for_state(instance_id, "terminated")
    assert ended["StateReason"]["Code"] == "Server.InternalError"
    assert said in ended["StateReason"]["Message"]
    assert not disk(hosting, instance_id).exists()
