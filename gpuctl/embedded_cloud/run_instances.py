"""Instances made of launch template data: all of it, where moto by itself drops most.

CreateFleet and RunInstances both come here, so that both tell the truth in DescribeInstances.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import InstanceState
from moto.ec2.utils import convert_tag_spec, parse_user_data

_TAGGED = ("instance", "volume", "network-interface", "spot-instances-request", "elastic-gpu")


@dataclass(frozen=True)
class Request:
    """Instances to make: launch template `data` in EC2's words, where (a subnet), on which market, and whose they are.

    `tags` go on the instances, on top of the template's. `spot_type` is the spot request's: `one-time`, `persistent`.
    """

    data: Mapping[str, Any]
    instance_type: str
    subnet_id: str
    market: str
    count: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    client_token: str | None = None
    spot_type: str = "one-time"


def launch(backend: Any, request: Request) -> Any:
    """Makes the instances, all in one reservation and `pending`. Raises EC2ClientError, having made none."""
    data = request.data
    image = image_of(backend, data.get("ImageId"))
    require_same_architecture(image, request.instance_type)
    subnet = backend.get_subnet(request.subnet_id)
    groups = _groups(backend, data, vpc_id=subnet.vpc_id)
    tags: dict[str, dict[str, str]] = convert_tag_spec(data.get("TagSpecifications") or [])
    reservation = backend.run_instances(
        image.id,
        request.count,
        user_data(data),
        [],
        instance_type=request.instance_type,
        is_instance_type_default=False,
        region_name=backend.region_name,
        subnet_id=subnet.id,
        key_name=data.get("KeyName"),
        security_group_ids=groups,
        nics=[_interface(data, subnet_id=subnet.id)],
        tags={"instance": {**tags.get("instance", {}), **request.tags}, "volume": tags.get("volume", {})},
        block_device_mappings=_devices(backend, image, data.get("BlockDeviceMappings") or ()),
        metadata_options=data.get("MetadataOptions") or {},
        instance_initiated_shutdown_behavior=data.get("InstanceInitiatedShutdownBehavior"),
        disable_api_termination=bool(data.get("DisableApiTermination")),
        ebs_optimized=bool(data.get("EbsOptimized")),
        monitoring_state="enabled" if (data.get("Monitoring") or {}).get("Enabled") else "disabled",
        client_token=request.client_token,
        lifecycle="spot" if request.market == "spot" else None,
    )
    for instance in reservation.instances:
        _finish(instance, data, interface_tags=tags.get("network-interface", {}), market=request.market)
        instance.spot_type = request.spot_type
    return reservation


def _spot_request_id() -> str:
    """As EC2 makes them, shorter than other ids."""
    return "sir-" + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def _finish(instance: Any, data: Mapping[str, Any], *, interface_tags: Mapping[str, str], market: str) -> None:
    instance._state = InstanceState("pending", 0)
    instance.virtualization_type = "hvm"
    instance.spot_instance_request_id = _spot_request_id() if market == "spot" else None
    for interface in instance.nics.values():
        interface.add_tags(dict(interface_tags))
    profile = data.get("IamInstanceProfile") or {}
    if profile:
        instance.ec2_backend.associate_iam_instance_profile(
            instance_id=instance.id,
            iam_instance_profile_name=profile.get("Name"),
            iam_instance_profile_arn=profile.get("Arn"),
        )


def image_of(backend: Any, image_id: str | None) -> Any:
    """The image. Raises EC2ClientError where none is named, or it is not there."""
    if not image_id:
        raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
    return backend.describe_images(ami_ids=[image_id])[0]


def require_same_architecture(image: Any, instance_type: str) -> None:
    """Raises EC2ClientError where the instance type is unknown or cannot run the image."""
    known = INSTANCE_TYPES.get(instance_type)
    if known is None:
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    architectures = known["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture not in architectures:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{','.join(architectures)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI.",
        )


def vcpus(instance_type: str) -> int:
    """How many virtual processors a type has; 2 for one that is not known."""
    return int(INSTANCE_TYPES.get(instance_type, {}).get("VCpuInfo", {}).get("DefaultVCpus", 2))


def user_data(data: Mapping[str, Any]) -> Base64EncodedString | None:
    """A template's user-data. Raises EC2ClientError where it is not base64."""
    found = data.get("UserData")
    return found if isinstance(found, Base64EncodedString) else parse_user_data(found)


def boot_text(user_data: Base64EncodedString | None) -> str:
    """User-data as the host's cloud-init reads it: unpacked where it is a gzip; what is no text is not obeyed there."""
    raw = base64.b64decode(str(user_data or ""))
    with contextlib.suppress(OSError, EOFError, zlib.error):
        raw = gzip.decompress(raw)
    return raw.decode(errors="replace")


def count(asked: Mapping[str, Any]) -> int:
    """How many instances a RunInstances asks for; there is always room for all. Raises EC2ClientError."""
    least, most = int(asked.get("MinCount", 1)), int(asked.get("MaxCount", 1))
    if not 1 <= least <= most:
        raise EC2ClientError(
            "InvalidParameterValue", f"Value ({least}) for parameter minCount is invalid. It is 1 to maxCount ({most})."
        )
    for specification in asked.get("TagSpecifications") or ():
        kind = specification.get("ResourceType")
        if kind not in _TAGGED:
            raise EC2ClientError(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
    return most


def _interface(data: Mapping[str, Any], *, subnet_id: str) -> dict[str, Any]:
    """The primary network interface; unlike one that moto makes, it ends with its instance."""
    public = _asked_interface(data).get("AssociatePublicIpAddress")
    interface = {"DeviceIndex": 0, "SubnetId": subnet_id, "DeleteOnTermination": True}
    return {**interface, "AssociatePublicIpAddress": public is None or public is True}


def _asked_interface(data: Mapping[str, Any]) -> Mapping[str, Any]:
    interfaces: Sequence[Mapping[str, Any]] = data.get("NetworkInterfaces") or ()
    if interfaces and (data.get("SecurityGroupIds") or data.get("SecurityGroups")):
        raise EC2ClientError(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level security groups may not be specified on the same request",
        )
    if len(interfaces) > 1:
        raise EC2ClientError("UnsupportedOperation", "The embedded cloud gives an instance one network interface")
    return interfaces[0] if interfaces else {}


def subnet_asked(data: Mapping[str, Any]) -> str | None:
    """The subnet that template data asks for, for the instance or for its interface."""
    return data.get("SubnetId") or _asked_interface(data).get("SubnetId")


def _groups(backend: Any, data: Mapping[str, Any], *, vpc_id: str) -> list[Any]:
    ids = data.get("SecurityGroupIds") or _asked_interface(data).get("Groups") or ()
    names = data.get("SecurityGroups") or ()
    groups = [backend.get_security_group_from_id(group_id) for group_id in ids]
    groups += [backend.get_security_group_from_name(name, vpc_id) for name in names]
    for group, asked in zip(groups, [*ids, *names], strict=True):
        if group is None or group.vpc_id != vpc_id:
            raise EC2ClientError("InvalidGroup.NotFound", f"The security group '{asked}' does not exist")
    return groups or [backend.get_default_security_group(vpc_id)]


def _devices(backend: Any, image: Any, asked: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The image's block devices with what was asked of each laid over them, as EC2 does by device name."""
    devices = {device["DeviceName"]: dict(device["Ebs"]) for device in image.block_device_mappings}
    for device in asked:
        if "Ebs" not in device:
            continue
        name = device["DeviceName"]
        ebs = {**devices.get(name, {"DeleteOnTermination": True, "VolumeType": "gp3"}), **device["Ebs"]}
        if ebs.get("SnapshotId"):
            _require_room(backend.get_snapshot(ebs["SnapshotId"]), ebs)
        devices[name] = ebs
    return [{"DeviceName": name, "Ebs": ebs} for name, ebs in devices.items()]


def _require_room(snapshot: Any, ebs: dict[str, Any]) -> None:
    least = snapshot.volume.size
    size = int(ebs.get("VolumeSize") or least)
    if size < least:
        raise EC2ClientError(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot '{snapshot.id}', expect size>= {least}GB",
        )
    ebs["VolumeSize"] = size
