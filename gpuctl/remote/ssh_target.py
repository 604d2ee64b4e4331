"""Where an instance's SSH server is: its public address and port 22, or what the cloud's directory of hosts says."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gpuctl import web
from gpuctl.core.codec import loads
from gpuctl.core.errors import HostUnreachable
from gpuctl.core.hosts import Instance, SSHTarget
from gpuctl.core.profile import Profile

_ANSWER_LIMIT = 4096
_TIMEOUT_S = 10


def ssh_target(profile: Profile, instance: Instance, *, alias: str, user: str) -> SSHTarget:
    """How the instance is reached. Raises HostUnreachable where it has no address."""
    if profile.host_directory_url is not None:
        url = f"{profile.host_directory_url}/{instance.instance_id}"
        address, port = _from_directory(url, instance.instance_id, key=profile.cloud_key)
        return SSHTarget(alias=alias, address=address, port=port, user=user)
    if instance.public_ip is None:
        raise HostUnreachable(
            f"host {instance.instance_id} has no public address",
            "its subnet must assign one; `gpuctl down` removes the run",
        )
    return SSHTarget(alias=alias, address=instance.public_ip, port=22, user=user)


@dataclass(frozen=True)
class _Entry:
    """A host in its cloud's directory."""

    address: str
    port: int


def _from_directory(url: str, instance_id: str, *, key: str | None) -> tuple[str, int]:
    try:
        entry = loads(web.get(url, limit=_ANSWER_LIMIT, timeout_s=_TIMEOUT_S, key=key), _Entry)
        return str(ipaddress.ip_address(entry.address)), entry.port
    except (OSError, ValueError) as error:
        raise HostUnreachable(
            f"host {instance_id} is not in its cloud's directory ({error})", "`gpuctl ls` shows whether it still exists"
        ) from error
