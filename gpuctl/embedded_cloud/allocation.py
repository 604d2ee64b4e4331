"""Which pools an `instant` fleet takes its instances from: pure, prices and capacity in, choice out.

After EC2's own account of it: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-fleet-allocation-strategy.html.
A pool here has all that is asked of it, unless a fault says how little is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Refusal:
    """Why a pool gives nothing: an error code and message as EC2 writes them."""

    code: str
    message: str


@dataclass(frozen=True)
class Pool:
    """One instance type in one zone on one market (`spot`, `on-demand`), as an override asked for it.

    `template` is the fleet's launch template specification, `override` what was said of this pool; both as EC2 had
    them. `priority`: lower comes first. `refusal` is set where the pool cannot serve.
    """

    instance_type: str
    zone: str
    subnet_id: str
    market: str
    price_usd_per_hour: Decimal
    template: dict[str, Any]
    override: dict[str, Any]
    priority: float = 0.0
    available: int = UNLIMITED
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Wish:
    """How many instances a fleet wants on one market, at least and at most, and how it chooses among its pools."""

    capacity: int
    strategy: str = "lowest-price"
    minimum: int = 0
    single_instance_type: bool = False
    single_zone: bool = False
    max_total_usd_per_hour: Decimal | None = None


@dataclass(frozen=True)
class Allocation:
    """What is launched, and what the fleet's answer says of pools that gave nothing, or less than was asked."""

    launched: list[tuple[Pool, int]]
    errors: list[tuple[Pool, Refusal]]


def allocate(pools: Sequence[Pool], wish: Wish) -> Allocation:
    """Fills the wish from the pools; below its minimum, launches nothing."""
    errors = [(pool, pool.refusal) for pool in pools if pool.refusal]
    usable = [pool for pool in pools if not pool.refusal]
    if wish.capacity == 0 or not pools:
        return Allocation([], [])
    best: list[tuple[Pool, int]] = []
    for group in _groups(usable, wish):
        choice = _fill(_ranked(group, wish.strategy), wish)
        if (-_count(choice), _cost(choice)) < (-_count(best), _cost(best)):
            best = choice
    if _count(best) < wish.capacity:
        errors += [(pool, _shortage(pool)) for pool in usable if pool.available < wish.capacity]
        errors = errors or [(pools[0], UNFULFILLABLE)]
    if _count(best) < max(wish.minimum, 1):
        return Allocation([], errors)
    return Allocation(best, errors)


UNFULFILLABLE = Refusal(
    "UnfulfillableCapacity",
    "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again.",
)


def _shortage(pool: Pool) -> Refusal:
    if pool.market == "spot":
        return Refusal("InsufficientInstanceCapacity", "There is no Spot capacity available that matches your request.")
    return Refusal(
        "InsufficientInstanceCapacity",
        f"We currently do not have sufficient {pool.instance_type} capacity in the Availability Zone you requested "
        f"({pool.zone}). Our system will be working on provisioning additional capacity.",
    )


def _groups(pools: Sequence[Pool], wish: Wish) -> Iterable[list[Pool]]:
    """The sets of pools that may serve one fleet together."""
    groups: dict[tuple[str | None, str | None], list[Pool]] = {}
    for pool in pools:
        key = (pool.instance_type if wish.single_instance_type else None, pool.zone if wish.single_zone else None)
        groups.setdefault(key, []).append(pool)
    return groups.values()


def _ranked(pools: Sequence[Pool], strategy: str) -> list[Pool]:
    """Cheapest first, where the strategy goes by price; the deepest pool is a matter of faults alone here."""
    if strategy in ("prioritized", "capacity-optimized-prioritized"):
        return sorted(pools, key=lambda pool: (pool.priority, pool.price_usd_per_hour))
    return sorted(pools, key=lambda pool: pool.price_usd_per_hour)


def _fill(ranked: Sequence[Pool], wish: Wish) -> list[tuple[Pool, int]]:
    """From the first pool as much as it has, and so on; `diversified` takes one from each in turn."""
    taken = [0] * len(ranked)
    spent = Decimal(0)
    while sum(taken) < wish.capacity:
        ready = [
            index
            for index, pool in enumerate(ranked)
            if taken[index] < pool.available
            and (wish.max_total_usd_per_hour is None or spent + pool.price_usd_per_hour <= wish.max_total_usd_per_hour)
        ]
        if not ready:
            break
        index = min(ready, key=lambda index: taken[index]) if wish.strategy == "diversified" else ready[0]
        taken[index] += 1
        spent += ranked[index].price_usd_per_hour
    return [(pool, count) for pool, count in zip(ranked, taken, strict=True) if count]


def _count(choice: Iterable[tuple[Pool, int]]) -> int:
    return sum(count for _, count in choice)


def _cost(choice: Iterable[tuple[Pool, int]]) -> Decimal:
    return sum((pool.price_usd_per_hour * count for pool, count in choice), Decimal(0))
