"""What things cost: the one place that multiplies a price by a time."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_UP, Decimal


def cost_usd(price_usd_per_hour: Decimal, time: timedelta) -> Decimal:
    """Price × time in dollars, rounded up to a hundredth of a cent."""
    return (price_usd_per_hour * hours(time)).quantize(Decimal("0.0001"), rounding=ROUND_UP)


def hours(time: timedelta) -> Decimal:
    """A length of time in hours, by whole seconds; never less than none."""
    return Decimal(max(0, int(time.total_seconds()))) / 3600


def hours_paid(budget_usd: Decimal, price_usd_per_hour: Decimal) -> Decimal:
    """How long a budget lasts."""
    return budget_usd / price_usd_per_hour
