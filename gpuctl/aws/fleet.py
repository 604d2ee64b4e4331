"""Making hosts: the launch template, the fleet's one call, and waiting until its instances run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gpuctl.aws.account import Account
from gpuctl.aws.errors import (
    CAPACITY_STEP,
    QUOTA_STEP,
    ErrorClass,
    aws_errors,
    classify,
    code_of,
    explain,
    is_free_plan,
)
from gpuctl.aws.instances import as_instance
from gpuctl.aws.parallel import NotReady, poll
from gpuctl.core.errors import CloudError, GpuctlError, NoCapacity
from gpuctl.core.fleet import again_token
from gpuctl.core.hosts import Instance
from gpuctl.core.tags import RUN

T = TypeVar("T")

SETTLE_S = 60.0
"""How long a fleet is tried again whose template EC2 does not know yet."""
_NEVER_RUNS = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
_ZONES_SHOWN = 6


@dataclass(frozen=True)
class PoolError:
    """Why one pool gave no instance."""

    code: str
    message: str
    instance_type: str
    zone: str


@dataclass(frozen=True)
class FleetAnswer:
    """What CreateFleet answered: instances, and the pools that gave none."""

    fleet_id: str
    instance_ids: tuple[str, ...]
    errors: tuple[PoolError, ...]


def create_template(
    account: Account,
    request: Mapping[str, Any],
    *,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The id of the launch template of a `gpuctl.core.fleet.template_request`, found where it is there already.

    Its name holds a hash of its content, so one of the same name and run is the same.
    """
    ec2 = account.client("ec2")
    name = request["LaunchTemplateName"]
    with aws_errors(f"create the launch template {name}"):
        try:
            return ec2.create_launch_template(**request)["LaunchTemplate"]["LaunchTemplateId"]
        except ec2.exceptions.ClientError as error:
            if classify(code_of(error)) is not ErrorClass.ALREADY:
                raise
        found = _once_known(
            lambda: ec2.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"][0],
            deadline=time.monotonic() + settle_s,
            sleep=sleep,
        )
        if _run_of(found.get("Tags", [])) != _run_of(request["TagSpecifications"][0]["Tags"]):
            what = f"there is a launch template {name} that does not belong to this run"
            raise CloudError(what, "give the run another --name")
        return found["LaunchTemplateId"]


def create_fleet(
    account: Account,
    request: Mapping[str, Any],
    *,
    tries: int = 0,
    on_try: Callable[[int], None] = lambda number: None,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> FleetAnswer:
    """Make the instances of a `gpuctl.core.fleet.fleet_request`; made again, the same request finds the same ones.

    An answer in which the template or the group, made a moment ago, is not known yet has made nothing, and EC2 may
    give it again to whoever asks with the same token: so the next try has another token, which follows from the first
    one and the try's number. `on_try` hears that number before the call; who goes on after a cut begins with it again
    (`tries`). Raises NoCapacity, NotAllowed or CloudError where there is none, with what each pool said.
    """
    deadline = time.monotonic() + settle_s

    def attempt() -> FleetAnswer:
        nonlocal tries
        on_try(tries)
        answer = _answer(account, {**request, "ClientToken": again_token(request["ClientToken"], tries)})
        if not answer.instance_ids and any(_unknown_yet(one.code) for one in answer.errors):
            tries += 1
            raise NotReady(_by_reason(answer.errors))
        return answer

    with aws_errors("create the fleet"):
        try:
            answer = poll(attempt, deadline=deadline, sleep=sleep)
        except NotReady as error:
            raise CloudError(
                f"EC2 does not yet know what was created for the fleet: {error}", "try again in a moment"
            ) from error
    if not answer.instance_ids:
        raise _none_made(answer.errors, request["TargetCapacitySpecification"]["DefaultTargetCapacityType"])
    return answer


def _answer(account: Account, request: Mapping[str, Any]) -> FleetAnswer:
    ec2 = account.client("ec2")
    try:
        answer = ec2.create_fleet(**request)
    except ec2.exceptions.ClientError as error:
        if not _unknown_yet(code_of(error)):
            raise
        return FleetAnswer("", (), (PoolError(code_of(error), str(error), "", ""),))
    ids = tuple(id_ for made in answer.get("Instances", []) for id_ in made.get("InstanceIds", []))
    return FleetAnswer(answer["FleetId"], ids, tuple(_pool_error(error) for error in answer.get("Errors", [])))


def _unknown_yet(code: str) -> bool:
    """Whether a fleet's pool could not be made because its template, or its group, is not known (yet)."""
    return code.startswith("InvalidLaunchTemplate") or code in (
        "InvalidGroup.NotFound",
        "InvalidSecurityGroupID.NotFound",
    )


def _once_known(look: Callable[[], T], *, deadline: float, sleep: Callable[[float], None]) -> T:
    """What `look` finds, once EC2 knows it. Raises CloudError at the deadline."""

    def known() -> T:
        try:
            return look()
        except Exception as error:
            if classify(code_of(error)) is ErrorClass.GONE:
                raise NotReady(str(error)) from error
            raise

    try:
        return poll(known, deadline=deadline, sleep=sleep)
    except NotReady as error:
        raise CloudError(f"EC2 says that it exists, but cannot find it: {error}", "try again in a moment") from error


def wait_until_running(
    account: Account, ids: Sequence[str], *, deadline: float, sleep: Callable[[float], None] = time.sleep
) -> list[Instance]:
    """The instances, in the order of `ids`, once all of them run. `deadline` is a time.monotonic().

    Raises NoCapacity or CloudError where one has ended instead, with EC2's reason, or at the deadline.
    """
    try:
        with aws_errors("wait for the instances"):
            return poll(lambda: _all_running(account, ids), deadline=deadline, sleep=sleep)
    except NotReady as error:
        raise CloudError(
            f"{', '.join(ids)}: not running in time ({error})", "try again, or another --region"
        ) from error


def _all_running(account: Account, ids: Sequence[str]) -> list[Instance]:
    ec2 = account.client("ec2")
    try:
        pages = list(ec2.get_paginator("describe_instances").paginate(InstanceIds=list(ids)))
    except ec2.exceptions.ClientError as error:
        if classify(code_of(error)) is ErrorClass.GONE:
            raise NotReady("EC2 does not know it yet") from error
        raise
    raws = {raw["InstanceId"]: raw for page in pages for held in page["Reservations"] for raw in held["Instances"]}
    for raw in raws.values():
        if raw["State"]["Name"] in _NEVER_RUNS:
            raise _ended(raw)
    waiting = sorted({raws[id_]["State"]["Name"] if id_ in raws else "unknown" for id_ in ids} - {"running"})
    if waiting:
        raise NotReady(", ".join(waiting))
    return [as_instance(raws[id_]) for id_ in ids]


def _ended(raw: Any) -> GpuctlError:
    reason = raw.get("StateReason", {})
    code = str(reason.get("Code", ""))
    said = str(reason.get("Message", "")) or raw["State"]["Name"]
    return explain(code or "unknown", said, doing=f"run {raw['InstanceId']}, which ended at once")


def _pool_error(raw: Any) -> PoolError:
    override = raw.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    return PoolError(
        code=str(raw.get("ErrorCode", "")),
        message=str(raw.get("ErrorMessage", "")),
        instance_type=str(override.get("InstanceType", "")),
        zone=str(override.get("AvailabilityZone", "")),
    )


def _none_made(errors: Sequence[PoolError], market: str) -> GpuctlError:
    """Why there is no instance: what no other pool or market would change, a quota, else no capacity."""
    if not errors:
        return NoCapacity(f"EC2 created no {market} instance and gave no reason", CAPACITY_STEP)
    means = {classify(error.code) for error in errors}
    final = next((error for error in errors if is_free_plan(error.message)), None)
    if {error.code for error in errors} == {"PendingVerification"}:
        final = errors[0]
    if final is None and not means & {ErrorClass.ANOTHER_OFFER, ErrorClass.ANOTHER_REGION_OR_USER, ErrorClass.WAIT}:
        final = errors[0]
    if final is not None:
        return explain(final.code, final.message, doing="create the fleet", permission="ec2:CreateFleet")
    if means == {ErrorClass.ANOTHER_REGION_OR_USER}:
        return NoCapacity(f"the account's quotas allow no {market} host now: {_by_reason(errors)}", QUOTA_STEP)
    if ErrorClass.ANOTHER_REGION_OR_USER in means:
        what = f"no {market} capacity, and quotas do not allow any more: {_by_reason(errors)}"
        return NoCapacity(what, f"{CAPACITY_STEP}; or {QUOTA_STEP}")
    return NoCapacity(f"no {market} capacity: {_by_reason(errors)}", CAPACITY_STEP)


def _by_reason(errors: Sequence[PoolError]) -> str:
    """`InsufficientInstanceCapacity (g6.xlarge in us-east-1a, us-east-1b; g5.xlarge in us-east-1a)`."""
    pools: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for error in errors:
        zones = pools[error.code or "no reason"][error.instance_type or "any type"]
        if error.zone and error.zone not in zones:
            zones.append(error.zone)
    return ", ".join(
        f"{code} ({'; '.join(_in_zones(kind, zones) for kind, zones in kinds.items())})"
        for code, kinds in pools.items()
    )


def _in_zones(kind: str, zones: Sequence[str]) -> str:
    shown = sorted(zones)[:_ZONES_SHOWN]
    return f"{kind} in {', '.join(shown)}" if shown else kind


def _run_of(tags: Any) -> str | None:
    return {tag["Key"]: tag["Value"] for tag in tags}.get(RUN)
