"""What instances cost on the embedded cloud, on demand and spot: a fixed table; `prices.json` names its source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

_DOLLARS = Decimal("0.000001")
_PRODUCTS = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")
_NEWEST_AGE_MINUTES = 300


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text(encoding="utf-8"))
    return table


def priced_types() -> list[str]:
    """The instance types that the table has a price for."""
    return list(_table()["on_demand_usd_per_hour"])


def on_demand(instance_type: str, *, region: str, vcpus: int = 2) -> Decimal:
    """US dollars an hour on demand; of a type that the table does not have, by its virtual processors."""
    table = _table()
    listed = table["on_demand_usd_per_hour"].get(instance_type)
    base = Decimal(listed) if listed else Decimal(table["usd_per_vcpu_hour"]) * vcpus
    return (base * _region_factor(region)).quantize(_DOLLARS)


def spot(instance_type: str, *, zone: str, vcpus: int = 2) -> Decimal:
    """US dollars an hour on the spot market of one zone (`us-east-1a`)."""
    table = _table()
    family = instance_type.partition(".")[0]
    share = Decimal(table["spot_share_of_on_demand"].get(family, "0.45"))
    factors = table["zone_factor"].get(family, table["zone_factor"]["default"])
    factor = Decimal(factors.get(zone[-1], "1"))
    return (on_demand(instance_type, region=zone[:-1], vcpus=vcpus) * share * factor).quantize(_DOLLARS)


def _region_factor(region: str) -> Decimal:
    factors = _table()["region_factor"]
    return Decimal(factors.get(region, factors["default"]))


@dataclass(frozen=True)
class PriceRequest:
    """What DescribeSpotPriceHistory was asked. Empty: no wish. Values of EC2's `filters` may have `*` and `?`."""

    instance_types: Sequence[str] = ()
    products: Sequence[str] = ()
    zone: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    filters: Mapping[str, Sequence[str]] | None = None


def history(request: PriceRequest, *, offered: Iterable[tuple[str, str, int]], now: datetime) -> list[dict[str, Any]]:
    """The newest record of each offered (instance type, zone, virtual processors), newest first, as EC2 writes them.

    A price that is older than `start` is told too, as it is the one in effect then.
    """
    records = [_record(instance_type, zone, vcpus=vcpus, now=now) for instance_type, zone, vcpus in offered]
    return sorted(
        (record for record in records if _wanted(record, request)),
        key=lambda record: (record["Timestamp"], record["InstanceType"], record["AvailabilityZone"]),
        reverse=True,
    )


def _record(instance_type: str, zone: str, *, vcpus: int, now: datetime) -> dict[str, Any]:
    age = timedelta(minutes=1 + crc32(f"{instance_type} {zone}".encode()) % _NEWEST_AGE_MINUTES)
    return {
        "InstanceType": instance_type,
        "AvailabilityZone": zone,
        "ProductDescription": _PRODUCTS[0],
        "SpotPrice": str(spot(instance_type, zone=zone, vcpus=vcpus)),
        "Timestamp": (now - age).replace(microsecond=0),
    }


def _wanted(record: Mapping[str, Any], request: PriceRequest) -> bool:
    if request.instance_types and record["InstanceType"] not in request.instance_types:
        return False
    if request.products and not set(request.products) & set(_PRODUCTS):
        return False
    if request.zone and record["AvailabilityZone"] != request.zone:
        return False
    if request.end and record["Timestamp"] > request.end:
        return False
    return all(_passes(record, name, patterns) for name, patterns in (request.filters or {}).items())


def _passes(record: Mapping[str, Any], name: str, patterns: Sequence[str]) -> bool:
    values = {
        "instance-type": (record["InstanceType"],),
        "availability-zone": (record["AvailabilityZone"],),
        "product-description": _PRODUCTS,
        "spot-price": (record["SpotPrice"],),
    }[name]
    return any(fnmatchcase(value, pattern) for value in values for pattern in patterns)
