"""Numbers as people read them: money, times, losses."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal


def span(seconds: float) -> str:
    """A length of time in one or two units: `3.2 s`, `45 s`, `3 min 20 s`, `2 h 05 min`, `3 d 3 h`."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def price(usd_per_hour: Decimal | float | None) -> str:
    """`$0.413/h`, `-` where it is not known."""
    return "-" if usd_per_hour is None else f"${usd_per_hour:,.3f}/h"


def money(usd: Decimal | float | None) -> str:
    """`$12.34`, `-` where it is not known."""
    if usd is None:
        return "-"
    return "under $0.01" if 0 < usd < 0.01 else f"${usd:,.2f}"


def loss(value: float | None, nonfinite: str | None = None) -> str:
    """A loss with four digits after the point, or what it was instead."""
    if value is None:
        return nonfinite or "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def clock(when: datetime) -> str:
    """A moment in this machine's own time zone, named: `Thu 26 Nov 03:30 CET`."""
    local = when.astimezone()
    return f"{local:%a} {local.day} {local:%b %H:%M %Z}".strip()


def left(ends: datetime | None, now: datetime) -> str:
    """How long until a moment: `in 3 h 20 min`, `over`."""
    if ends is None:
        return "-"
    seconds = (ends - now).total_seconds()
    return "over" if seconds <= 0 else f"in {span(seconds)}"
