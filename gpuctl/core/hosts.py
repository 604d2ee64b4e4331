"""Hosts as values: an instance as EC2 tells of it, and how it is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from gpuctl.core.tags import RunTags


@dataclass(frozen=True)
class Instance:
    """One EC2 instance, as DescribeInstances has it. `market` is `spot` or `on-demand`; `state` is EC2's own word.

    `state_reason` is EC2's code for why it came to that state, where it gives one.
    """

    instance_id: str
    instance_type: str
    zone: str
    market: str
    state: str
    launched: datetime
    public_ip: str | None
    tags: RunTags
    price_usd_per_hour: Decimal | None = None
    state_reason: str = ""


def by_number(instances: Sequence[Instance], launched: Sequence[str]) -> dict[int, Instance]:
    """A run's instances by their number: those of its launch in its order (`launched`), then others, oldest first."""
    numbers = {id_: number for number, id_ in enumerate(launched)}
    found = {numbers[one.instance_id]: one for one in instances if one.instance_id in numbers}
    others = sorted(
        (one for one in instances if one.instance_id not in numbers), key=lambda one: (one.launched, one.instance_id)
    )
    return dict(sorted({**found, **dict(enumerate(others, start=len(numbers)))}.items()))


def host_alias(run: str, number: int) -> str:
    """What `ssh` calls a run's host: the run's name for the first, `RUN-1` for the next."""
    return run if number == 0 else f"{run}-{number}"


@dataclass(frozen=True)
class SSHTarget:
    """How a host is reached; the run's ssh_config and the code's own connections are both made from this."""

    alias: str
    address: str
    port: int
    user: str
    proxy_command: str | None = None
