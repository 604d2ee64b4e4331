"""The cloud with the hosts that it really has: reached over SSH, let in by groups, ended with the cloud."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import paramiko
import pytest
from cloud_fixtures import Cloud, ids, until
from host_fixtures import KeyPair, key_pair

from gpuctl.core.boot import BootKeys, user_data


def launch(cloud: Cloud, caller: KeyPair, *, group_id: str) -> str:
    host = key_pair()
    text = user_data(
        run="test-run",
        deadline=datetime.now(timezone.utc) + timedelta(minutes=10),
        keys=BootKeys(host_private=host.private, host_public=host.public, caller_public=caller.public),
    )
    encoded = base64.b64encode(text.encode()).decode()
    answer = cloud.fleet(cloud.template("template", groups=[group_id], UserData=encoded))
    (instance_id,) = ids(answer)
    cloud.wait_for_state(instance_id, "running")
    return instance_id


def connect(cloud: Cloud, instance_id: str, caller: KeyPair, *, source: str = "127.0.0.1") -> paramiko.SSHClient:
    """An SSH connection from one of the loopback's addresses. Raises where the host does not let it in."""
    address = json.loads(cloud.ask(f"/gpuctl/hosts/{instance_id}")[1])
    connection = socket.create_connection((address["address"], address["port"]), timeout=10, source_address=(source, 0))
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.WarningPolicy)
    try:
        client.connect(
            address["address"],
            sock=connection,
            username="ubuntu",
            pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(caller.private)),
            allow_agent=False,
            look_for_keys=False,
            banner_timeout=10,
        )
    except Exception:
        connection.close()
        raise
    return client


def output(client: paramiko.SSHClient, command: str) -> str:
    _, out, _ = client.exec_command(command, timeout=20)
    return str(out.read().decode()).strip()


@pytest.mark.filterwarnings("ignore:Unknown ssh-ed25519 host key")
def test_a_host_asks_the_group_and_dies_with_its_cloud(state: Path) -> None:
    """Only the address that the rules name is let in, now; a killed cloud leaves no host, no process, no folder."""
    cloud = Cloud.start(state)
    caller = key_pair()
    group_id = cloud.group("g")
    instance_id = launch(cloud, caller, group_id=group_id)
    with connect(cloud, instance_id, caller) as client:
        assert output(client, "echo $INSTANCE_ID") == instance_id
        marked = output(client, "setsid sleep 600 >/dev/null 2>&1 & echo $!")
        if sys.platform == "linux":
            swap_rule(cloud, group_id, cidr="127.0.0.2/32")
            with pytest.raises((paramiko.SSHException, OSError, EOFError)):
                connect(cloud, instance_id, caller)
            with connect(cloud, instance_id, caller, source="127.0.0.2") as other:
                assert output(other, "echo in") == "in"
        os.kill(cloud.pid, signal.SIGKILL)
        until(lambda: not alive(int(marked)), timeout_s=10)
    again = Cloud.start(state)
    assert again.lost == [instance_id]
    assert not (state / "hosts" / instance_id).exists()


def swap_rule(cloud: Cloud, group_id: str, *, cidr: str) -> None:
    (group,) = cloud.ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    cloud.ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=group["IpPermissions"])
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": cidr}]}
    cloud.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[permission])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_host_that_powers_off_is_terminated(state: Path) -> None:
    """`sudo poweroff` on a host ends that instance, as its shutdown behaviour says, and its disk goes."""
    cloud = Cloud.start(state)
    caller = key_pair()
    instance_id = launch(cloud, caller, group_id=cloud.group("g"))
    with pytest.warns(UserWarning, match="host key"), connect(cloud, instance_id, caller) as client:
        client.exec_command("sudo poweroff")
        ended = cloud.wait_for_state(instance_id, "terminated")
    assert ended["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert not (state / "hosts" / instance_id).exists()
