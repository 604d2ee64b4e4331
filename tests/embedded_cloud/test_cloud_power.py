"""Hosts that really run, stopped and started as on EC2, by their user and by AWS; and hosts that are not well."""

from __future__ import annotations

import errno
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from cloud_fixtures import DLAMI, Cloud, ids, run_cloud, until
from host_fixtures import carriers
from real_hosts import RealHost, launch_host
from small_disk import small_disk_host_command


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One cloud with real hosts for the tests of this file."""
    folder = tmp_path_factory.mktemp("power") / "cloud"
    yield Cloud.start(folder)
    assert run_cloud("stop", folder).returncode == 0


def deadlines(host: RealHost) -> list[int]:
    """The processes that hold the host's deadline: every boot's own."""
    return [pid for pid in carriers(host.instance_id) if b"gpuctl-deadline" in words_of(pid)]


def words_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def do(host: RealHost, word: str) -> None:
    """One of the cloud's own words for what befalls a host."""
    status, text = host.cloud.ask(f"/gpuctl/hosts/{host.instance_id}/{word}", method="POST")
    assert status == 200, text


def is_silent(host: RealHost, *, for_s: float = 0.5) -> bool:
    """Whether the host takes a connection and says nothing."""
    with socket.create_connection(host.address(), timeout=10) as sock:
        sock.settimeout(for_s)
        try:
            return not sock.recv(1) and False
        except TimeoutError:
            return True


def test_a_stopped_host_keeps_its_disk_and_starts_at_another_address(hosting: Cloud) -> None:
    """Stop ends its processes and takes its address; start boots from the same disk; terminate takes that too."""
    host = launch_host(hosting, market="on-demand")
    host.run("echo kept > model.pt; tmux new-session -d 'sleep 600'")
    before, launched = host.address(), hosting.instance(host.instance_id)["LaunchTime"]
    hosting.ec2.stop_instances(InstanceIds=[host.instance_id])
    stopped = hosting.wait_for_state(host.instance_id, "stopped")
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["StateTransitionReason"].startswith("User initiated (")
    assert "PublicIpAddress" not in stopped
    assert carriers(host.instance_id) == []
    assert hosting.ask(f"/gpuctl/hosts/{host.instance_id}")[0] == 404
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(before, timeout=10)
    hosting.ec2.start_instances(InstanceIds=[host.instance_id])
    started = hosting.wait_for_state(host.instance_id, "running")
    assert started["StateReason"]["Code"] == ""
    assert started["LaunchTime"] >= launched
    assert host.address() != before
    assert host.run("cat model.pt; tmux ls 2>/dev/null || echo no tmux") == "kept\nno tmux"
    assert len(deadlines(host)) == 1, "bootcmd runs at every boot"
    hosting.ec2.stop_instances(InstanceIds=[host.instance_id])
    hosting.wait_for_state(host.instance_id, "stopped")
    hosting.ec2.terminate_instances(InstanceIds=[host.instance_id])
    hosting.wait_for_state(host.instance_id, "terminated")
    assert not host.disk.exists()


def test_a_reboot_keeps_disk_and_address(hosting: Cloud) -> None:
    """Asked for by the user, by AWS's maintenance or on the host: its processes end, bootcmd runs, nothing moves."""
    host = launch_host(hosting)
    host.run("echo kept > model.pt")
    address = host.address()
    for reboot in (
        lambda: hosting.ec2.reboot_instances(InstanceIds=[host.instance_id]),
        lambda: do(host, "reboot"),
        lambda: host.run("sudo reboot"),
    ):
        before = deadlines(host)
        reboot()
        until(lambda before=before: (now := deadlines(host)) and not set(now) & set(before))
        assert hosting.instance(host.instance_id)["State"]["Name"] == "running"
        assert host.address() == address
        assert until(lambda: host.run("cat model.pt")) == "kept"


def test_aws_itself_stops_a_host_at_retirement(hosting: Cloud) -> None:
    """A spot host too, though its user may not; it says that the service did, and starts again with its disk."""
    host = launch_host(hosting)
    host.run("echo kept > model.pt")
    do(host, "retire")
    stopped = hosting.wait_for_state(host.instance_id, "stopped")
    assert stopped["StateReason"] == {
        "Code": "Server.ScheduledStop",
        "Message": "Server.ScheduledStop: Stopped due to scheduled retirement",
    }
    assert stopped["StateTransitionReason"].startswith("Service initiated (")
    hosting.ec2.start_instances(InstanceIds=[host.instance_id])
    hosting.wait_for_state(host.instance_id, "running")
    assert host.run("cat model.pt") == "kept"


def test_a_power_off_stops_where_the_shutdown_behaviour_says_so(hosting: Cloud) -> None:
    """A host that shuts itself down keeps its disk then, and starts again."""
    host = launch_host(hosting, market="on-demand", InstanceInitiatedShutdownBehavior="stop")
    host.run("echo kept > model.pt; sudo poweroff")
    stopped = hosting.wait_for_state(host.instance_id, "stopped")
    assert stopped["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    hosting.ec2.start_instances(InstanceIds=[host.instance_id])
    hosting.wait_for_state(host.instance_id, "running")
    assert host.run("cat model.pt") == "kept"


def test_a_one_time_spot_instance_is_not_stopped_by_its_user(cloud: Cloud) -> None:
    """EC2 refuses it with these words; one of a persistent request stops, and the request says so."""
    (one_time,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}")))
    cloud.wait_for_state(one_time, "running")
    with pytest.raises(ClientError, match=r"UnsupportedOperation.*associated with a one-time Spot Instance request"):
        cloud.ec2.stop_instances(InstanceIds=[one_time])
    image = cloud.client("ssm").get_parameter(Name=DLAMI)["Parameter"]["Value"]
    market = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "persistent"}}
    (persistent,) = cloud.ec2.run_instances(
        ImageId=image, InstanceType="g5.xlarge", InstanceMarketOptions=market, MinCount=1, MaxCount=1
    )["Instances"]
    cloud.wait_for_state(persistent["InstanceId"], "running")
    cloud.ec2.stop_instances(InstanceIds=[persistent["InstanceId"]])
    stopped = cloud.wait_for_state(persistent["InstanceId"], "stopped")
    (request,) = cloud.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[stopped["SpotInstanceRequestId"]])[
        "SpotInstanceRequests"
    ]
    assert (request["Type"], request["State"], request["Status"]["Code"]) == (
        "persistent",
        "disabled",
        "instance-stopped-by-user",
    )


def test_what_an_instances_state_does_not_allow_is_refused(cloud: Cloud) -> None:
    """A terminated instance neither starts nor stops; one that runs is started already; a stopped one cannot reboot."""
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}"), market="on-demand"))
    cloud.wait_for_state(instance_id, "running")
    (change,) = cloud.ec2.start_instances(InstanceIds=[instance_id])["StartingInstances"]
    assert change["PreviousState"] == change["CurrentState"] == {"Code": 16, "Name": "running"}
    cloud.ec2.stop_instances(InstanceIds=[instance_id])
    cloud.wait_for_state(instance_id, "stopped")
    with pytest.raises(ClientError, match=r"IncorrectInstanceState.*from which it can be rebooted"):
        cloud.ec2.reboot_instances(InstanceIds=[instance_id])
    cloud.ec2.terminate_instances(InstanceIds=[instance_id])
    cloud.wait_for_state(instance_id, "terminated")
    for change in (cloud.ec2.start_instances, cloud.ec2.stop_instances):
        with pytest.raises(ClientError, match="IncorrectInstanceState"):
            change(InstanceIds=[instance_id])
    cloud.ec2.reboot_instances(InstanceIds=[instance_id])


def test_a_frozen_host_answers_nothing_and_ends_all_the_same(hosting: Cloud) -> None:
    """Everything on it is stopped, connections are taken and stay silent; thawed it goes on; frozen it terminates."""
    host = launch_host(hosting)
    host.run("setsid sh -c 'while :; do echo x >> beats; sleep 0.02; done' >/dev/null 2>&1 &")
    until((host.home / "beats").exists)
    do(host, "freeze")
    assert {state_of(pid) for pid in carriers(host.instance_id)} == {"T"}
    assert is_silent(host)
    size = (host.home / "beats").stat().st_size
    do(host, "heal")
    until(lambda: (host.home / "beats").stat().st_size > size)
    assert host.run("echo well") == "well"
    do(host, "freeze")
    hosting.ec2.terminate_instances(InstanceIds=[host.instance_id])
    hosting.wait_for_state(host.instance_id, "terminated")
    assert carriers(host.instance_id) == []
    assert not host.disk.exists()


def test_a_deaf_ssh_server_leaves_training_alone(hosting: Cloud) -> None:
    """It takes connections and says nothing, while what runs on the host goes on."""
    host = launch_host(hosting)
    host.run("setsid sh -c 'while :; do echo x >> beats; sleep 0.02; done' >/dev/null 2>&1 &")
    do(host, "deafen")
    assert is_silent(host)
    size = (host.home / "beats").stat().st_size
    until(lambda: (host.home / "beats").stat().st_size > size)
    do(host, "heal")
    assert host.run("echo well") == "well"


WRITE = """python3 -c 'import pathlib; pathlib.Path("new").write_text("x")' 2>&1 | tail -1"""

WRITER = """
import pathlib, time

while True:
    try:
        pathlib.Path("a").write_text("x")
    except OSError:
        pass
    time.sleep(0.02)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets one process set another's limits")
def test_a_filled_host_writes_nothing_and_still_reads(hosting: Cloud) -> None:
    """For everything on it, what ran before too; near a full disk, in every environment."""
    host = launch_host(hosting)
    host.run("echo kept > model.pt")
    (host.home / "writer.py").write_text(WRITER)
    host.run("setsid python3 writer.py >/dev/null 2>&1 &")
    until(lambda: (host.home / "a").exists() and (host.home / "a").stat().st_size)
    do(host, "fill")
    assert host.run(WRITE) == f"OSError: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}"
    assert host.run("cat model.pt") == "kept"
    until(lambda: not (host.home / "a").stat().st_size)
    do(host, "heal")
    until(lambda: (host.home / "a").stat().st_size)
    assert host.run(f"{WRITE}; cat new") == "x"


def test_a_host_with_a_small_disk_really_fills_it(state: Path) -> None:
    """Where a mount is permitted: ENOSPC for everything that writes; what was there stays; room helps."""
    state.mkdir()
    cloud = Cloud.start(state, "--host-command", small_disk_host_command(state))
    host = launch_host(cloud)
    host.run("echo kept > model.pt; cat /dev/zero > filler 2>/dev/null || true")
    assert host.run(WRITE) == f"OSError: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
    assert host.run("cat model.pt") == "kept"
    assert host.run(f"rm filler; {WRITE}; cat new") == "x"
    cloud.ec2.terminate_instances(InstanceIds=[host.instance_id])
    cloud.wait_for_state(host.instance_id, "terminated")
