"""Hosts as values: an instance as EC2 tells of it, and how it is reached."""

from __future__ import annotations

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
    private_ip: str | None
    tags: RunTags
    price_usd_per_hour: Decimal | None = None
    state_reason: str = ""

    @property
    def gone(self) -> bool:
        """True once it costs nothing and never comes back."""
        return self.state == "terminated"


@dataclass(frozen=True)
class SSHTarget:
    """How a host is reached; the run's ssh_config and the code's own connections are both made from this."""

    alias: str
    address: str
    port: int
    user: str
    proxy_command: str | None = None
