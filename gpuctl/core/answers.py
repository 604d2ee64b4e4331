"""What commands answer: the values that `--json` prints as they stand here, and that tables show.

Each is a documented, stable schema: a field may come, none goes or changes its meaning. None of a field: not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from gpuctl.core.host_state import Training
from gpuctl.core.losses.points import Split

RunState = Literal[
    "starting",
    "running",
    "succeeded",
    "failed",
    "stopped",
    "interrupted",
    "lost",
    "down",
    "host up",
    "host stopped",
]
"""A run's state, derived and never stored. `interrupted`: EC2 says that its host is gone; `lost`: the host does not
answer; `host up`: nothing was started on it, or this laptop has no key to it; `host stopped`: it is switched off."""


@dataclass(frozen=True)
class HostRow:
    """One instance of a run. `state` is EC2's own word."""

    instance_id: str
    instance_type: str
    zone: str
    market: str
    state: str


@dataclass(frozen=True)
class RunSummary:
    """One run: `ls`. `seen` is when its host last told this laptop of its training, `seen_state` what it said; `why` is
    its reason for the state, `power_off_at` when it powers itself off, sooner than the lease ends."""

    run: str
    job: str | None
    cloud: str
    region: str
    state: RunState
    hosts: tuple[HostRow, ...]
    price_usd_per_hour: Decimal | None
    cost_usd: Decimal | None
    lease_ends: datetime | None
    seen: datetime | None = None
    seen_state: Training | None = None
    why: str | None = None
    power_off_at: datetime | None = None


@dataclass(frozen=True)
class SilentRegion:
    """A region that was asked and did not answer, and why: what is there is not known."""

    region: str
    error: str


@dataclass(frozen=True)
class RunsAnswer:
    """All runs that have a host in the regions that were asked and answered: `ls`."""

    runs: tuple[RunSummary, ...]
    regions: tuple[str, ...]
    silent: tuple[SilentRegion, ...] = ()


@dataclass(frozen=True)
class LastLoss:
    """The last loss of a split; of one that is not finite, `nonfinite` says what it was (`nan`, `inf`)."""

    step: int | None
    loss: float | None
    nonfinite: str | None = None


@dataclass(frozen=True)
class ResourceRow:
    """Something in the account. `kind` is EC2's own word: `instance`, `security-group`, …"""

    kind: str
    id: str


@dataclass(frozen=True)
class RunStatus(RunSummary):
    """One run whole: `status`. `problem` is what kept its host from saying more."""

    exit_code: int | None = None
    losses: Mapping[Split, LastLoss] | None = field(default=None, hash=False)
    resources: tuple[ResourceRow, ...] = ()
    ssh_config: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class LaunchAnswer:
    """A run whose training has started: `launch -d`."""

    run: str
    cloud: str
    region: str
    hosts: tuple[HostRow, ...]


@dataclass(frozen=True)
class StopAnswer:
    """A training that was stopped, on the run's first host: `stop`. `error` is why that could not be, and `others` are
    the run's other hosts."""

    run: str
    state: Training
    exit_code: int | None
    host: int = 0
    error: str | None = None
    others: tuple[StopAnswer, ...] = ()


@dataclass(frozen=True)
class NotPulled:
    """A file or folder that stayed on the host, and why; where that is known, how much it is."""

    name: str
    why: str
    files: int | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Skipped:
    """Something that holds nothing which could be lost."""

    name: str
    why: str


@dataclass(frozen=True)
class PullAnswer:
    """What came home of a host: `pull`. `missing` are paths of the job's that match nothing, `incomplete` still being
    written, `error` is why no more is known of it: what came before that is whole. `others` are the run's other hosts,
    each with a folder of its own below `destination`."""

    destination: str
    files: tuple[str, ...]
    unchanged: int
    bytes: int
    skipped: tuple[Skipped, ...]
    left: tuple[NotPulled, ...]
    missing: tuple[str, ...]
    incomplete: tuple[str, ...]
    complete: bool
    host: int = 0
    error: str | None = None
    others: tuple[PullAnswer, ...] = ()


@dataclass(frozen=True)
class DownFailure:
    """A run that could not be taken down, and why."""

    run: str
    error: str


@dataclass(frozen=True)
class DownAnswer:
    """What was removed, and what AWS still has: `down`. Of `down --all`, `regions` were asked for runs and answered."""

    removed: tuple[ResourceRow, ...]
    left: tuple[ResourceRow, ...]
    failed: tuple[DownFailure, ...] = ()
    regions: tuple[str, ...] = ()
    silent: tuple[SilentRegion, ...] = ()


@dataclass(frozen=True)
class OfferRow:
    """One offer: `offers`."""

    instance_type: str
    gpu: str
    gpus: int
    zone: str
    market: str
    price_usd_per_hour: Decimal


@dataclass(frozen=True)
class JobRow:
    """One packaged job: `jobs`."""

    name: str
    summary: str
    command: str
    presets: tuple[str, ...]


@dataclass(frozen=True)
class OptionRow:
    """An option of a job's program, and its default in each preset."""

    option: str
    help: str
    defaults: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class FileRow:
    """A file of a job's."""

    path: str
    bytes: int


@dataclass(frozen=True)
class JobDetails(JobRow):
    """One packaged job whole: `jobs NAME`."""

    requires_python: str | None
    requirements: tuple[str, ...]
    options: tuple[OptionRow, ...]
    files: tuple[FileRow, ...]
