"""The plan: what a launch will do, fully decided before anything is created.

A plan is a value: it can be printed, compared, stored in `run.json` and tested without a cloud. Its parts change for
different reasons: the workload is the user's, the attempts are the market's, access is the network's, the lease is
money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from gpuctl.core.lease import Lease, lease_ends
from gpuctl.core.offers import Market, Offer
from gpuctl.core.tags import RunTags
from gpuctl.core.uploads import UploadSummary

FAR_MORE = Decimal("1.5")
MOST_POOLS = 12
ROOM_GIB = 25
"""What the host's disk has beyond what its image takes, at least."""
LEAST_VOLUME_GIB = 100


@dataclass(frozen=True)
class Upload:
    """A file or folder of the laptop (`source`) and its name in the workspace."""

    source: str
    name: str


@dataclass(frozen=True)
class Workload:
    """What the host gets and runs, and what of it is wanted back.

    `environment_names` are the variables that the command gets; their values are never stored. `outputs` are the paths
    that come home, None for all that the command writes, less `exclude`. `pattern` finds the losses in the log.
    """

    command: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    requires_python: str | None = None
    uploads: tuple[Upload, ...] = ()
    environment_names: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    pattern: str | None = None
    unread: tuple[str, ...] = ()
    """Files of the project that say what it imports, and are not read."""
    content: UploadSummary | None = None
    """How much `uploads` hold, None where an earlier gpuctl made the plan."""


@dataclass(frozen=True)
class Image:
    """A machine image of one region. `root_device` is its root disk's name (`/dev/sda1`), `root_gib` its least size.

    `login_user` is its default user, `python` its `python3`'s version, as far as that is known.
    """

    image_id: str
    name: str
    architecture: str
    login_user: str
    root_device: str
    root_gib: int
    python: str | None = None

    @property
    def volume_gib(self) -> int:
        """The size of the root disk that a host gets."""
        return max(LEAST_VOLUME_GIB, self.root_gib + ROOM_GIB)


@dataclass(frozen=True)
class Pool:
    """An instance type in a zone, at a price: what a fleet may take an instance from."""

    instance_type: str
    gpu: str
    gpus: int
    zone: str
    subnet_id: str
    price_usd_per_hour: Decimal


@dataclass(frozen=True)
class Attempt:
    """One fleet call: one region, one market, one image, and the pools that it may take an instance from, best first.

    `number` is its place in the plan, from 1. Without a maximum price EC2's own limit for spot holds.
    """

    number: int
    region: str
    market: Market
    image: Image
    vpc_id: str
    pools: tuple[Pool, ...]
    max_price_usd_per_hour: Decimal | None = None

    @property
    def best(self) -> Pool:
        """The pool that comes first."""
        return self.pools[0]

    def limit_usd_per_hour(self, pool: Pool) -> Decimal | None:
        """The most that an hour of a pool of it can cost; None where a spot price may rise to the on-demand price."""
        return pool.price_usd_per_hour if self.market == "on-demand" else self.max_price_usd_per_hour


@dataclass(frozen=True)
class Access:
    """Who may reach the hosts: SSH from this CIDR block and nothing else."""

    caller_cidr: str


@dataclass(frozen=True)
class Plan:
    """What a launch will do. `region_source` says where the region comes from: an option, a variable, a file."""

    run: str
    job: str
    cloud: str
    owner: str
    region_source: str
    workload: Workload
    attempts: tuple[Attempt, ...]
    access: Access
    lease: Lease

    @property
    def tags(self) -> RunTags:
        """What everything that this plan creates is tagged with."""
        return RunTags(run=self.run, job=self.job, owner=self.owner, lease_ends=self.lease.ends)

    def attempt(self, number: int) -> Attempt:
        """The attempt of that number, from 1."""
        return self.attempts[number - 1]


def most_usd_per_hour(attempts: Sequence[Attempt]) -> Decimal:
    """The most that an hour can cost: by the pools' limits, and by the price of now where there is none."""
    pools = [(attempt, pool) for attempt in attempts for pool in attempt.pools]
    return max(attempt.limit_usd_per_hour(pool) or pool.price_usd_per_hour for attempt, pool in pools)


@dataclass(frozen=True)
class Terms:
    """What a person asked for that binds a plan made earlier: prices have moved since, and what was asked has not.

    `suitable` are the region, market and instance type of each offer that would do at any price.
    """

    asked_at: datetime
    max_hours: Decimal | None
    budget_usd: Decimal | None
    suitable: frozenset[tuple[str, Market, str]]


def unlike(agreed: Plan, terms: Terms, stored: Plan, number: int) -> str | None:
    """What a person did not agree to of a stored plan that goes on with its attempt of that number; None if nothing."""
    attempts = stored.attempts[number - 1 :]
    most, limits = agreed.attempts[0].max_price_usd_per_hour, {one.max_price_usd_per_hour for one in attempts}
    latest = lease_ends(
        terms.asked_at,
        max_hours=terms.max_hours,
        budget_usd=terms.budget_usd,
        price_usd_per_hour=most_usd_per_hour(attempts),
    )
    pools = {(one.region, one.market, pool.instance_type) for one in attempts for pool in one.pools}
    found = {
        "job": stored.job != agreed.job,
        "command": stored.workload.command != agreed.workload.command,
        "region, market or instance type": not terms.suitable.issuperset(pools),
        "maximum price": most is not None and any(limit is None or limit > most for limit in limits),
        "end of its lease": stored.lease.ends > latest,
        "--then or --discard": replace(stored.lease, ends=agreed.lease.ends) != agreed.lease,
        "workload": _asked(stored.workload) != _asked(agreed.workload),
    }
    return next((what for what, differs in found.items() if differs), None)


def _asked(workload: Workload) -> Workload:
    """A workload without what was only seen of its project."""
    return replace(workload, unread=(), content=None)


def images_wanted(ranked: Sequence[Offer]) -> list[tuple[str, str]]:
    """The region and architecture of each image that `plan_attempts` needs for these offers."""
    return list(dict.fromkeys((region, architecture) for region, _, architecture in _by_attempt(ranked)))


def plan_attempts(
    ranked: Sequence[Offer],
    images: Mapping[tuple[str, str], Image],
    *,
    max_price_usd_per_hour: Decimal | None = None,
) -> tuple[Attempt, ...]:
    """The fleet calls that the offers make, in their order. `images` are by region and architecture.

    A fleet weighs capacity against price by itself, so a pool that costs far more than its attempt's best is not in it.
    """
    return tuple(
        Attempt(
            number=number,
            region=region,
            market=market,
            image=images[region, architecture],
            vpc_id=offers[0].subnet.vpc_id,
            pools=_pools(offers),
            max_price_usd_per_hour=max_price_usd_per_hour,
        )
        for number, ((region, market, architecture), offers) in enumerate(_by_attempt(ranked).items(), start=1)
    )


def _by_attempt(ranked: Sequence[Offer]) -> dict[tuple[str, Market, str], list[Offer]]:
    """By region, market and architecture. For now the first offer's region and architecture are the only ones."""
    first = ranked[0]
    groups: dict[tuple[str, Market, str], list[Offer]] = {}
    for offer in ranked:
        architecture = offer.instance_type.architecture
        if (offer.region, architecture) == (first.region, first.instance_type.architecture):
            groups.setdefault((offer.region, offer.market, architecture), []).append(offer)
    return groups


def _pools(offers: Sequence[Offer]) -> tuple[Pool, ...]:
    limit = offers[0].price_usd_per_hour * FAR_MORE
    return tuple(_pool(offer) for offer in offers if offer.price_usd_per_hour <= limit)[:MOST_POOLS]


def _pool(offer: Offer) -> Pool:
    kind = offer.instance_type
    return Pool(kind.name, kind.gpu, kind.gpus, offer.zone, offer.subnet.subnet_id, offer.price_usd_per_hour)
