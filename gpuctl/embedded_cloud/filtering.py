"""Filters that moto passes over: those that are carried out here, and those that nobody carries out and are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

_MEMBERS: Mapping[str, Mapping[str, str]] = {
    "DescribeFleets": {"fleet-state": "FleetState", "type": "Type", "activity-status": "ActivityStatus"},
    "DescribeFleetInstances": {"instance-type": "InstanceType"},
    "DescribeSpotInstanceRequests": {
        "state": "State",
        "instance-id": "InstanceId",
        "spot-instance-request-id": "SpotInstanceRequestId",
        "type": "Type",
        "launched-availability-zone": "LaunchedAvailabilityZone",
        "product-description": "ProductDescription",
    },
}
_MOTOS: Mapping[str, frozenset[str]] = {
    "DescribeInstanceStatus": frozenset({"instance-state-code", "instance-state-name"}),
    "DescribeLaunchTemplateVersions": frozenset(),
    "DescribeRegions": frozenset(),
    "DescribeAvailabilityZones": frozenset({"region-name", "state", "zone-id", "zone-name", "zone-type"}),
    "DescribeTags": frozenset({"key", "resource-id", "resource-type", "value"}),
    "DescribeSpotPriceHistory": frozenset({"availability-zone", "instance-type", "product-description", "spot-price"}),
}
"""Of the operations of which moto passes over some filters: those that it carries out."""
_TRIP = frozenset(
    {
        *("dedicated-hosts-supported", "ebs-info.attachment-limit-type", "ebs-info.maximum-ebs-attachments"),
        *("network-info.bandwidth-weightings", "network-info.flexible-ena-queues-support"),
        *("nitro-enclaves-support", "nitro-tpm-info.supported-versions", "nitro-tpm-support"),
        *("processor-info.supported-features", "reboot-migration-support"),
        *("instance-storage-info.disk.count", "instance-storage-info.disk.size-in-gb"),
        "instance-storage-info.disk.type",
    }
)
"""Those of DescribeInstanceTypes that moto does not know or breaks at."""


def is_carried_out(operation: str, name: str) -> bool:
    """Whether a filter that the operation has means anything here; what moto says itself that it lacks is true here."""
    if operation == "DescribeInstanceTypes":
        return name not in _TRIP
    known = _MEMBERS.get(operation) or _MOTOS.get(operation)
    return known is None or name in known


def select(
    operation: str, items: Iterable[dict[str, Any]], filters: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The items of an answer that all of the filters let through; `*` and `?` in a value are what they are in EC2's."""
    members = _MEMBERS[operation]
    return [
        item
        for item in items
        if all(
            any(fnmatchcase(str(item.get(members[name])), value.replace("[", "[[]")) for value in values)
            for name, values in filters.items()
        )
    ]
