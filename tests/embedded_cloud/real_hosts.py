"""Hosts that really run, launched through the cloud's API with gpuctl's own user-data, and reached over SSH."""

from __future__ import annotations

import base64
import io
import json
import socket
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import paramiko
from cloud_fixtures import Cloud, ids
from host_fixtures import KeyPair, key_pair

from gpuctl.core.boot import BootKeys, user_data


@dataclass(frozen=True)
class RealHost:
    """An instance that runs, and the key to it."""

    cloud: Cloud
    instance_id: str
    host: KeyPair
    caller: KeyPair

    @property
    def disk(self) -> Path:
        return self.cloud.state / "hosts" / self.instance_id

    @property
    def home(self) -> Path:
        return self.disk / "home"

    def address(self) -> tuple[str, int]:
        """Where its SSH server listens."""
        status, text = self.cloud.ask(f"/gpuctl/hosts/{self.instance_id}")
        assert status == 200, text
        where = json.loads(text)
        return where["address"], where["port"]

    def connect(self, *, timeout_s: float = 10) -> paramiko.SSHClient:
        """A verified connection. Raises OSError or SSHException where there is none within the time."""
        address, port = self.address()
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        kind, text = self.host.public.split()
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(text))
        client.get_host_keys().add(address if port == 22 else f"[{address}]:{port}", kind, key)
        sock = socket.create_connection((address, port), timeout=timeout_s)
        try:
            client.connect(
                address,
                port,
                sock=sock,
                username="ubuntu",
                pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(self.caller.private)),
                allow_agent=False,
                look_for_keys=False,
                timeout=timeout_s,
                banner_timeout=timeout_s,
                auth_timeout=timeout_s,
            )
        except BaseException:
            client.close()
            sock.close()
            raise
        return client

    def run(self, command: str) -> str:
        """What a command prints, both streams; it must succeed."""
        with self.connect() as client:
            _, out, _ = client.exec_command(f"exec 2>&1; {command}", timeout=60)
            text = str(out.read().decode())
            assert out.channel.recv_exit_status() == 0, text
            return text.strip()


def launch_host(cloud: Cloud, *, market: str = "spot", lease_s: float = 600, **data: Any) -> RealHost:
    """A running instance with a group that lets this machine in; `data` goes into its launch template."""
    host, caller = key_pair(), key_pair()
    text = user_data(
        run="test-run",
        deadline=datetime.now(timezone.utc) + timedelta(seconds=lease_s),
        keys=BootKeys(host_private=host.private, host_public=host.public, caller_public=caller.public),
    )
    name = f"t-{uuid.uuid4()}"
    encoded = base64.b64encode(text.encode()).decode()
    template_id = cloud.template(name, **{"groups": [cloud.group(name)], "UserData": encoded, **data})
    (instance_id,) = ids(cloud.fleet(template_id, market=market))
    cloud.wait_for_state(instance_id, "running")
    return RealHost(cloud, instance_id, host, caller)
