"""Offers: the ways to get a host, and which of them comes first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Market = Literal["spot", "on-demand"]


@dataclass(frozen=True)
class InstanceType:
    """What EC2 says of an instance type (DescribeInstanceTypes). `gpu` is the device's name (`A10G`), `gpus` how many."""

    name: str
    architecture: str
    vcpus: int
    memory_gib: Decimal
    gpu: str
    gpus: int
    gpu_memory_gib: Decimal


@dataclass(frozen=True)
class Offer:
    """One way to get a host: instance type × availability zone × market, at a price."""

    instance_type: InstanceType
    zone: str
    market: Market
    price_usd_per_hour: Decimal


@dataclass(frozen=True)
class Wanted:
    """What a launch asks of its hosts. None: no wish."""

    gpu: str | None = None
    instance_type: str | None = None
    max_price_usd_per_hour: Decimal | None = None
    on_demand: Literal["never", "fallback", "only"] = "never"


def rank(offers: Iterable[Offer], wanted: Wanted) -> list[Offer]:
    """The offers that do, cheapest first; with `on_demand="fallback"` spot stands before on-demand."""
    raise NotImplementedError
