"""EC2's word for an instance, made ours."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from gpuctl.core.hosts import Instance
from gpuctl.core.tags import RunTags

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

_NO_RUN = RunTags(run="", job="", owner="", lease_ends=datetime.fromtimestamp(0, timezone.utc))


def as_instance(raw: InstanceTypeDef) -> Instance:
    """An instance of DescribeInstances. Without gpuctl's tags its run is `""`."""
    tags = {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
    return Instance(
        instance_id=raw["InstanceId"],
        instance_type=raw["InstanceType"],
        zone=raw.get("Placement", {}).get("AvailabilityZone", ""),
        market="spot" if raw.get("InstanceLifecycle") == "spot" else "on-demand",
        state=raw["State"]["Name"],
        launched=raw["LaunchTime"],
        public_ip=raw.get("PublicIpAddress") or None,
        state_reason=raw.get("StateReason", {}).get("Code", ""),
        tags=RunTags.from_dict(tags) or _NO_RUN,
    )
