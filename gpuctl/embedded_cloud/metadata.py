"""Instance metadata, version 2 alone: a token first, then paths, as an instance reads them from 169.254.169.254.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html. A program that has that address
written into it would reach the real one of this machine: hosts get this one's in AWS_EC2_METADATA_SERVICE_ENDPOINT.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpuctl.embedded_cloud.instances import InstanceState

TOKEN_PATH = "latest/api/token"  # noqa: S105
_LONGEST_TTL_S = 21600


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: a status, a body, and headers beside the usual."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()


def answer(life: InstanceState, method: str, path: str, headers: Mapping[str, str]) -> Answer:
    """What one instance's metadata service says to a request for `path` (`latest/meta-data/instance-id`).

    The names of `headers` are in lower case.
    """
    if path == TOKEN_PATH:
        return _token(life, headers) if method == "PUT" else Answer(405)
    if method != "GET":
        return Answer(405)
    expires = life.tokens.get(headers.get("x-aws-ec2-metadata-token", ""))
    if expires is None or expires < time.monotonic():
        return Answer(401)
    if path == "latest/user-data":
        data = life.instance.user_data
        return Answer(200, base64.b64decode(str(data)), "application/octet-stream") if data else Answer(404)
    if path == "latest/dynamic/instance-identity/document":
        return Answer(200, json.dumps(_document(life), indent=2).encode(), "text/plain")
    return _metadata(life, path)


def _token(life: InstanceState, headers: Mapping[str, str]) -> Answer:
    try:
        ttl_s = int(headers.get("x-aws-ec2-metadata-token-ttl-seconds", ""))
    except ValueError:
        return Answer(400)
    if not 1 <= ttl_s <= _LONGEST_TTL_S:
        return Answer(400)
    if "x-forwarded-for" in headers:
        return Answer(403)
    now = time.monotonic()
    for token, expires in list(life.tokens.items()):
        if expires < now:
            life.tokens.pop(token, None)
    token = secrets.token_urlsafe(40)
    life.tokens[token] = now + ttl_s
    return Answer(200, token.encode(), headers=(("X-aws-ec2-metadata-token-ttl-seconds", str(ttl_s)),))


def _metadata(life: InstanceState, path: str) -> Answer:
    folder = path.removeprefix("latest/meta-data").strip("/")
    if not path.startswith("latest/meta-data"):
        return Answer(200, b"dynamic\nmeta-data\nuser-data") if path.strip("/") == "latest" else Answer(404)
    if folder in _VALUES:
        value = _VALUES[folder](life)
        return Answer(200, value.encode()) if value is not None else Answer(404)
    below = f"{folder}/" if folder else ""
    names = [name.removeprefix(below).partition("/") for name in _VALUES if name.startswith(below)]
    listing = sorted({first + slash for first, slash, _ in names})
    return Answer(200, "\n".join(listing).encode()) if listing else Answer(404)


def _document(life: InstanceState) -> dict[str, Any]:
    instance = life.instance
    return {
        "accountId": instance.owner_id,
        "architecture": instance.architecture,
        "availabilityZone": instance.placement.zone,
        "billingProducts": None,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "kernelId": None,
        "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "privateIp": instance.private_ip,
        "ramdiskId": None,
        "region": instance.region_name,
        "version": "2017-09-30",
    }


def _spot_action(life: InstanceState) -> str | None:
    if life.reclaimed_at is None:
        return None
    return json.dumps({"action": "terminate", "time": life.reclaimed_at.strftime("%Y-%m-%dT%H:%M:%SZ")})


_VALUES: dict[str, Callable[[InstanceState], str | None]] = {
    "ami-id": lambda life: str(life.instance.image_id),
    "hostname": lambda life: "localhost",
    "instance-id": lambda life: str(life.instance.id),
    "instance-life-cycle": lambda life: life.instance.lifecycle or "on-demand",
    "instance-type": lambda life: str(life.instance.instance_type),
    "local-hostname": lambda life: "localhost",
    "local-ipv4": lambda life: life.instance.private_ip,
    "placement/availability-zone": lambda life: life.instance.placement.zone,
    "placement/region": lambda life: str(life.instance.region_name),
    "public-ipv4": lambda life: life.instance.public_ip,
    "security-groups": lambda life: "\n".join(group.name for group in life.instance.security_groups),
    "spot/instance-action": _spot_action,
}
