"""The plan: what a launch will do, fully decided before anything is created.

A plan is a value: it can be printed, compared, stored in `run.json` and tested without a cloud.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from typing import Any

from gpuctl.core.errors import UsageError
from gpuctl.core.offers import Offer
from gpuctl.core.tags import RunTags, iso, parse_iso

DEFAULT_LEASE_HOURS = Decimal(24)
SHORTEST_LEASE_HOURS = Decimal(1) / 3600
LONGEST_LEASE_HOURS = Decimal(24 * 365)
IDLE_AFTER_HOME_S = 30 * 60
"""A host whose training has ended and whose outputs are home powers itself off after this many seconds."""

THEN_DOWN_S = 15 * 60
"""The same where `--then down` says no other time."""

FAR_MORE = Decimal("1.5")
MOST_POOLS = 12

_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Upload:
    """A file or folder of the laptop (`source`) and its name in the workspace."""

    source: str
    name: str


@dataclass(frozen=True)
class Choice:
    """One offer that the fleet may take, in the plan's order."""

    instance_type: str
    gpu: str
    gpus: int
    zone: str
    market: str
    price_usd_per_hour: Decimal


@dataclass(frozen=True)
class Plan:
    """What a launch will do. `environment_names` are the variables the command gets; their values are never stored."""

    run: str
    job: str
    cloud: str
    region: str
    region_source: str
    owner: str
    command: tuple[str, ...]
    requirements: tuple[str, ...]
    uploads: tuple[Upload, ...]
    environment_names: tuple[str, ...]
    outputs: tuple[str, ...] | None
    checkpoints: tuple[str, ...]
    pattern: str | None
    choices: tuple[Choice, ...]
    image_id: str
    image_name: str
    login_user: str
    root_device: str
    volume_gib: int
    caller_cidr: str
    max_price_usd_per_hour: Decimal | None
    lease_ends: datetime
    requires_python: str | None = None
    then_s: int | None = None
    """`--then down`: seconds from when nothing holds the host up any more to its end."""
    discard: bool = False
    """Outputs that are not home by then are lost: the end of the training is all that is waited for."""

    @property
    def idle_s(self) -> int:
        """Seconds after which a host that waits for nothing more powers itself off."""
        return IDLE_AFTER_HOME_S if self.then_s is None else self.then_s

    @property
    def tags(self) -> RunTags:
        """What everything that this plan creates is tagged with."""
        return RunTags(run=self.run, job=self.job, owner=self.owner, lease_ends=self.lease_ends)

    @property
    def best(self) -> Choice:
        """The choice that the fleet is expected to take."""
        return self.choices[0]

    def attempts(self) -> list[Plan]:
        """The plan cut by market, in order: one fleet call takes one market, and the next is tried without capacity."""
        markets = dict.fromkeys(c.market for c in self.choices)
        return [replace(self, choices=tuple(c for c in self.choices if c.market == market)) for market in markets]

    def most_usd(self, now: datetime) -> Decimal:
        """What the run costs if it lives to the end of its lease at the best price, in whole cents, rounded up."""
        return cost_usd(self.best.price_usd_per_hour, self.lease_ends - now)

    def with_lease(self, ends: datetime) -> Plan:
        """The same plan under another lease."""
        return replace(self, lease_ends=ends)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON has it: money as numbers of dollars, times in ISO 8601."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`. Raises KeyError or TypeError for what is not a plan."""
        values = dict(data)
        values["uploads"] = tuple(Upload(**u) for u in data["uploads"])
        values["choices"] = tuple(
            Choice(**{**c, "price_usd_per_hour": _money(c["price_usd_per_hour"])}) for c in data["choices"]
        )
        for name in ("command", "requirements", "environment_names", "checkpoints"):
            values[name] = tuple(data[name])
        values["outputs"] = None if data["outputs"] is None else tuple(data["outputs"])
        most = data["max_price_usd_per_hour"]
        values["max_price_usd_per_hour"] = None if most is None else _money(most)
        values["lease_ends"] = parse_iso(data["lease_ends"])
        return cls(**values)


def shortlist(ranked: Sequence[Offer]) -> tuple[Choice, ...]:
    """The offers that the fleet calls may take, spot's before on-demand's; the best one's image must fit them all.

    A fleet weighs capacity against price by itself, so a pool that costs far more than its market's best is not in it.
    """
    fitting = [o for o in ranked if o.instance_type.architecture == ranked[0].instance_type.architecture]
    choices: list[Choice] = []
    for market in dict.fromkeys(offer.market for offer in fitting):
        pools = [offer for offer in fitting if offer.market == market]
        limit = pools[0].price_usd_per_hour * FAR_MORE
        near = [offer for offer in pools if offer.price_usd_per_hour <= limit]
        choices.extend(choice(offer) for offer in near[:MOST_POOLS])
    return tuple(choices)


def cost_usd(price_usd_per_hour: Decimal, time: timedelta) -> Decimal:
    """Price × time in dollars, rounded up to a hundredth of a cent."""
    hours = Decimal(max(0, int(time.total_seconds()))) / 3600
    return (price_usd_per_hour * hours).quantize(Decimal("0.0001"), rounding=ROUND_UP)


def choice(offer: Offer) -> Choice:
    """An offer as the plan keeps it."""
    kind = offer.instance_type
    return Choice(kind.name, kind.gpu, kind.gpus, offer.zone, offer.market, offer.price_usd_per_hour)


def lease_ends(
    now: datetime, *, max_hours: Decimal | None, budget_usd: Decimal | None, price_usd_per_hour: Decimal
) -> datetime:
    """When the host ends itself: after `max_hours` (24 unless said), or sooner where the budget ends before that."""
    hours = lease_hours(max_hours)
    if budget_usd is not None:
        if budget_usd <= 0:
            raise UsageError("--budget must be more than 0")
        hours = min(hours, budget_usd / price_usd_per_hour)
        if hours < SHORTEST_LEASE_HOURS:
            raise UsageError(f"--budget {budget_usd:f} pays for less than a second at ${price_usd_per_hour:f} an hour")
    return (now + timedelta(seconds=int(hours * 3600))).replace(microsecond=0)


def lease_hours(max_hours: Decimal | None) -> Decimal:
    """`--max-hours` as the length of a lease, 24 hours unless said. Raises UsageError for what is none."""
    hours = DEFAULT_LEASE_HOURS if max_hours is None else max_hours
    if not SHORTEST_LEASE_HOURS <= hours <= LONGEST_LEASE_HOURS:
        raise UsageError(f"--max-hours must be from a second to a year ({LONGEST_LEASE_HOURS} hours)")
    return hours


def check_then(then_s: int | None, lease: timedelta) -> None:
    """Refuse a `--then down` that the lease's end always forestalls. Raises UsageError."""
    if then_s is not None and then_s >= lease.total_seconds():
        raise UsageError(
            f"--then down:{then_s / 60:g} is longer than the whole lease ({lease.total_seconds() / 60:.0f} min)",
            "say fewer minutes, or more with --max-hours or --budget",
        )


def new_run_name(job: str) -> str:
    """A run's id: the job's name and four letters that are hard to confuse (`char-rnn-k3f9`)."""
    stem = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-")[:40].strip("-") or "run"
    return f"{stem}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"


def _money(value: float | str) -> Decimal:
    return Decimal(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
