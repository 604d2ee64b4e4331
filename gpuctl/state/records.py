"""What a laptop keeps of a run, as values: the record of what was asked, and what has been seen of it since.

A record outlives the version that wrote it. `run.json` names its schema: an older one is migrated when it is read, a
newer one is refused, and the run stays as it is. Within a schema a field may come (with a default) or go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from gpuctl import __version__
from gpuctl.core.codec import Unreadable, from_plain
from gpuctl.core.host_state import Training
from gpuctl.core.plan import ROOM_GIB, Attempt, Plan, Workload

SCHEMA = 2


@dataclass(frozen=True)
class RunHeader:
    """What every schema of `run.json` has, this one and later ones: enough to find the run in the account.

    `gpuctl` is the version that wrote it.
    """

    schema: int
    cloud: str
    region: str
    gpuctl: str = "an early version"


@dataclass(frozen=True)
class RunRecord:
    """`run.json`, written whole before each attempt's fleet call: one whose answer was lost is made from it again.

    `attempt` is the number of the attempt that is being made, or was made last.
    """

    plan: Plan
    attempt: int = 1
    template_request: dict[str, Any] | None = field(default=None, hash=False)
    fleet_request: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def current(self) -> Attempt:
        """The attempt that is being made, or was made last."""
        return self.plan.attempt(self.attempt)

    @property
    def begun(self) -> tuple[Attempt, ...]:
        """The attempts that may have made something, the current one last."""
        return self.plan.attempts[: self.attempt]

    @property
    def header(self) -> RunHeader:
        """What a version that knows nothing of this schema needs."""
        return RunHeader(SCHEMA, self.plan.cloud, self.current.region, __version__)


@dataclass(frozen=True)
class Made:
    """Something that a call in a region has answered to have made. `kind` is EC2's word, as in a tag specification.

    `region` is empty where nobody knows it any more.
    """

    kind: str
    id: str
    region: str


@dataclass(frozen=True)
class Progress:
    """What this laptop has seen of a run: `progress.json`.

    Each is set before the deed: `claim` (the word that this launch's security group carries) before the group is made,
    `asked` (the kind of what is being made, since `asked_at`) before the call, `fleet_tries` before the fleet's,
    `started` before the start. What a call has answered is in `made`, and nothing is `asked` then.
    `start_answered` is False from the start until the host has answered: whether it trains, only the host knows.
    """

    started: bool
    claim: str | None = None
    asked: str | None = None
    asked_at: float = 0.0
    made: tuple[Made, ...] = ()
    fleet_tries: int = 0
    instance_ids: tuple[str, ...] = ()
    start_answered: bool | None = None
    ended: Training | None = None
    exit_code: int | None = None
    destination: str | None = None
    home: bool = False
    down: bool = False


@dataclass(frozen=True)
class Seen:
    """What a run's host said of its training when it was last asked, `seen.json`.

    `why` is the reason for its state, `power_off_at` when the host ends itself, each where it told one.
    """

    state: Training
    at: datetime
    why: str | None = None
    power_off_at: datetime | None = None


def header_of(data: Any) -> RunHeader:
    """The header of a stored record, of whatever schema. Raises Unreadable."""
    if isinstance(data, dict) and "cloud" not in data and isinstance(data.get("plan"), dict):
        data = {**data["plan"], **data}  # schema 1 had it in the plan
        data["cloud"] = _cloud(data.get("cloud"))
    return from_plain(data, RunHeader)


def migrated(data: Any) -> Any:
    """A stored record as this version has it. Raises KeyError or TypeError for what is not the schema that it says."""
    for schema in range(data["schema"], SCHEMA):
        data = _MIGRATIONS[schema](data)
    return data


def migrated_progress(data: Any, region: Callable[[], str]) -> Any:
    """A stored progress as this version has it: what was made stood as pairs once, in the run's one `region`."""
    made = data.get("made") if isinstance(data, dict) else None
    if not isinstance(made, list) or not all(isinstance(one, list) and len(one) == 2 for one in made):
        return data
    return {**data, "made": [{"kind": kind, "id": id_, "region": region()} for kind, id_ in made]}


def _from_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 had one flat plan, and an attempt for each market among its choices.

    Which subnet a choice had stands in the fleet's own request, of the attempt that was made.
    """
    old = data["plan"]
    markets = dict.fromkeys(choice["market"] for choice in old["choices"])
    subnets = _subnets(data.get("fleet_request"))
    image = {
        "image_id": old["image_id"],
        "name": old["image_name"],
        "architecture": "",
        "login_user": old["login_user"],
        "root_device": old["root_device"],
        "root_gib": old["volume_gib"] - ROOM_GIB,
    }
    attempts = [
        {
            "number": number,
            "region": old["region"],
            "market": market,
            "image": image,
            "vpc_id": "",
            "pools": [
                {**choice, "subnet_id": subnets.get(choice["zone"], "")}
                for choice in old["choices"]
                if choice["market"] == market
            ],
            "max_price_usd_per_hour": old.get("max_price_usd_per_hour"),
        }
        for number, market in enumerate(markets, start=1)
    ]
    plan = {
        **{name: old[name] for name in ("run", "job", "owner", "region_source")},
        "cloud": _cloud(old["cloud"]),
        "workload": {field.name: old[field.name] for field in fields(Workload) if field.name in old},
        "attempts": attempts,
        "access": {"caller_cidr": old["caller_cidr"]},
        "lease": {"ends": old["lease_ends"], "then_s": old.get("then_s"), "discard": old.get("discard", False)},
    }
    return {**data, "schema": 2, "cloud": _cloud(old["cloud"]), "region": old["region"], "plan": plan}


def checked(record: RunRecord) -> RunRecord:
    """The record, where its attempt is one of the plan's and each of those has a pool. Raises Unreadable."""
    attempts = record.plan.attempts
    if not 1 <= record.attempt <= len(attempts) or not all(attempt.pools for attempt in attempts):
        raise Unreadable(f"attempt {record.attempt} of {len(attempts)} does not exist")
    return record


def _cloud(name: Any) -> Any:
    """The embedded cloud's name was `local` once."""
    return "embedded" if name == "local" else name


def _subnets(fleet_request: Mapping[str, Any] | None) -> dict[str, str]:
    configs = fleet_request["LaunchTemplateConfigs"] if fleet_request else []
    return {one["AvailabilityZone"]: one["SubnetId"] for config in configs for one in config["Overrides"]}


_MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}
"""By the schema that is read: each gives the next one."""
