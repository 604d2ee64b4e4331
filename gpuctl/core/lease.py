"""The lease: how long a run may live, and what ends its host sooner."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from gpuctl.core.cost import hours_paid
from gpuctl.core.errors import UsageError

DEFAULT_LEASE_HOURS = Decimal(24)
SHORTEST_LEASE_HOURS = Decimal(1) / 3600
LONGEST_LEASE_HOURS = Decimal(24 * 365)
IDLE_AFTER_HOME_S = 30 * 60
"""A host whose training has ended and whose outputs are home powers itself off after this many seconds."""

THEN_DOWN_S = 15 * 60
"""The same where `--then down` says no other time."""


@dataclass(frozen=True)
class Lease:
    """When a run's hosts end themselves, whatever happens to the laptop.

    `then_s` (`--then down`): seconds from when nothing holds the host up any more to its end; None where nothing was
    said. With `discard` outputs that are not home by then are lost: the end of the training is all that is waited for.
    """

    ends: datetime
    then_s: int | None = None
    discard: bool = False

    @property
    def idle_s(self) -> int:
        """Seconds after which a host that waits for nothing more powers itself off."""
        return IDLE_AFTER_HOME_S if self.then_s is None else self.then_s


def lease_ends(
    now: datetime, *, max_hours: Decimal | None, budget_usd: Decimal | None, price_usd_per_hour: Decimal
) -> datetime:
    """When the host ends itself: after `max_hours` (default: 24), or sooner where the budget ends before that."""
    hours = lease_hours(max_hours)
    if budget_usd is not None:
        if budget_usd <= 0:
            raise UsageError("--budget must be more than 0")
        hours = min(hours, hours_paid(budget_usd, price_usd_per_hour))
        if hours < SHORTEST_LEASE_HOURS:
            raise UsageError(f"--budget {budget_usd:f} pays for less than a second at ${price_usd_per_hour:f} an hour")
    return (now + timedelta(seconds=int(hours * 3600))).replace(microsecond=0)


def lease_hours(max_hours: Decimal | None) -> Decimal:
    """`--max-hours` as the length of a lease (default: 24). Raises UsageError for what is none."""
    hours = DEFAULT_LEASE_HOURS if max_hours is None else max_hours
    if not SHORTEST_LEASE_HOURS <= hours <= LONGEST_LEASE_HOURS:
        raise UsageError(f"--max-hours must be from a second to a year ({LONGEST_LEASE_HOURS} hours)")
    return hours


def check_then(then_s: int | None, lease: timedelta) -> None:
    """Refuse a `--then down` that the lease's end always forestalls. Raises UsageError."""
    if then_s is not None and then_s >= lease.total_seconds():
        raise UsageError(
            f"--then down:{then_s / 60:g} is longer than the whole lease ({lease.total_seconds() / 60:.0f} min)",
            "choose fewer minutes, or raise --max-hours or --budget",
        )
