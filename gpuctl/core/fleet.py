"""The two requests that make hosts, as values: what CreateLaunchTemplate and CreateFleet are called with.

Both are plain JSON, so that a run keeps them beside its plan. A call whose answer was lost is made again from what was
kept: its ClientToken follows from the run, the attempt and the request's own words, so EC2 answers with what it made.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gpuctl.core.plan import Attempt, Image, Plan, Pool
from gpuctl.core.tags import RunTags

USER_DATA_LIMIT = 16 * 1024
"""In bytes, before base64 (EC2 User Guide, 'Run commands when you launch an EC2 instance')."""


def template_request(plan: Plan, attempt: Attempt, *, group_id: str, user_data: str) -> dict[str, Any]:
    """What CreateLaunchTemplate is called with.

    Volumes and network interfaces are tagged here; the fleet's own call tags the fleet and its instances. The subnet
    is the fleet's to choose, and the security group then has to be the network interface's. Raises ValueError.
    """
    raw = user_data.encode()
    if len(raw) > USER_DATA_LIMIT:
        raise ValueError(f"user-data has {len(raw)} bytes, and EC2 takes {USER_DATA_LIMIT}")
    tags = plan.tags
    data = {
        "ImageId": attempt.image.image_id,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [_root_volume(attempt.image)],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
                "Groups": [group_id],
            }
        ],
        "UserData": base64.b64encode(raw).decode(),
        "TagSpecifications": [_tagged("volume", tags), _tagged("network-interface", tags)],
    }
    request: dict[str, Any] = {
        "LaunchTemplateData": data,
        "TagSpecifications": [_tagged("launch-template", tags)],
    }
    token = client_token(plan.run, attempt=attempt.number, request=request)
    return {"LaunchTemplateName": f"gpuctl-{plan.run}-{token[:8]}", **request, "ClientToken": token}


def fleet_request(plan: Plan, attempt: Attempt, *, template: Mapping[str, Any], hosts: int = 1) -> dict[str, Any]:
    """What CreateFleet is called with: `hosts` hosts or none, from any of the attempt's pools.

    `template` is the template's own request. Raises ValueError.
    """
    if hosts < 1:
        raise ValueError(f"a fleet is one host or more, not {hosts}")
    spot = attempt.market == "spot"
    limit = attempt.max_price_usd_per_hour if spot else None
    specification = {"LaunchTemplateName": template["LaunchTemplateName"], "Version": "1"}
    overrides = [_override(pool, limit) for pool in attempt.pools]
    request: dict[str, Any] = {
        "Type": "instant",
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": specification, "Overrides": overrides}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": hosts, "DefaultTargetCapacityType": attempt.market},
        "TagSpecifications": [_tagged("fleet", plan.tags), _tagged("instance", plan.tags)],
    }
    if spot:
        strategy = {"AllocationStrategy": "price-capacity-optimized", "InstanceInterruptionBehavior": "terminate"}
        request["SpotOptions"] = {**strategy, **_all_or_nothing(hosts)}
    else:
        request["OnDemandOptions"] = {"AllocationStrategy": "lowest-price", **_all_or_nothing(hosts)}
    return {**request, "ClientToken": client_token(plan.run, attempt=attempt.number, request=request)}


def client_token(run: str, *, attempt: int, request: Mapping[str, Any]) -> str:
    """40 characters that follow from the run, the attempt and the request (EC2 takes 64 and more)."""
    text = json.dumps([run, attempt, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def again_token(token: str, tries: int) -> str:
    """The token of a request that is made again after `tries` answers that made nothing: the first has its own."""
    return token if tries == 0 else hashlib.sha256(f"{token} {tries}".encode()).hexdigest()[:40]


def _all_or_nothing(hosts: int) -> dict[str, Any]:
    """One host is all or nothing by itself, and may come from any pool.

    EC2 takes a minimum only with a single zone or a single type (SpotOptionsRequest, MinTargetCapacity): the hosts of
    one run are alike, and near each other.
    """
    if hosts == 1:
        return {}
    return {"MinTargetCapacity": hosts, "SingleAvailabilityZone": True, "SingleInstanceType": True}


def _override(pool: Pool, limit: Decimal | None) -> dict[str, Any]:
    """One pool. The subnet says the zone already; both, so that an answer about the pool names its zone."""
    override = {"InstanceType": pool.instance_type, "AvailabilityZone": pool.zone, "SubnetId": pool.subnet_id}
    return override if limit is None else {**override, "MaxPrice": f"{limit:f}"}


def _root_volume(image: Image) -> dict[str, Any]:
    ebs = {"VolumeSize": image.volume_gib, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    return {"DeviceName": image.root_device, "Ebs": ebs}


def _tagged(kind: str, tags: RunTags) -> dict[str, Any]:
    pairs = [{"Key": key, "Value": value} for key, value in tags.as_dict().items()]
    return {"ResourceType": kind, "Tags": pairs}
