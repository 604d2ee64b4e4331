"""Removing what there is, until AWS has been seen to say that it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gpuctl.aws.account import Account
from gpuctl.aws.errors import ErrorClass, aws_errors, classify, code_of
from gpuctl.aws.inventory import AWAY_S, CONFIRM_S, Resource
from gpuctl.aws.kinds import INSTANCE, KINDS, Kind
from gpuctl.aws.parallel import NotReady, poll
from gpuctl.core.errors import CloudError, GpuctlError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Sleep = Callable[[float], None]
Clock = Callable[[], float]
_BATCH = 100
IN_USE_S = 5.0
"""How long one resource that is in use is asked for: what uses it may be an instance that was not found before."""


def remove(
    account: Account,
    resources: Iterable[Resource],
    *,
    deadline: float,
    sleep: Sleep = time.sleep,
    clock: Clock = time.monotonic,
    on_removed: Callable[[Resource], None] = lambda resource: None,
) -> None:
    """Remove what is given, and wait until it is gone: instances first, security groups last. Gone already is gone.

    Not found is gone only where it was there before, or has stayed away for AWAY_S; else it is removed again and again
    until it is found. `deadline` is a time.monotonic(). One that cannot be removed does not keep the others, but is
    not waited for by what depends on it: at the end the first error is raised; StillInUse where there is no other.
    """
    todo = list(resources)
    failed: list[GpuctlError] = []
    instances = [one for one in todo if one.kind == INSTANCE]
    try:
        _Ending(account, instances, clock=clock, on_removed=on_removed).carry_out(deadline=deadline, sleep=sleep)
    except GpuctlError as error:
        failed.append(error)
        deadline = clock()
    for kind in KINDS:
        for one in todo:
            if one.kind != kind.name:
                continue
            try:
                _remove_one(account, kind, one, deadline=deadline, sleep=sleep, clock=clock)
            except GpuctlError as error:
                failed.append(error)
            else:
                on_removed(one)
    if failed:
        raise next((error for error in failed if not isinstance(error, StillInUse)), failed[0])


class StillInUse(CloudError):
    """Something uses it yet, which the caller may have to find first."""


class _Lasting:
    """How long something has been so without a break: not found, in use."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None

    def ended(self) -> None:
        self._since = None

    def lasts(self, *, for_s: float) -> bool:
        """It is so now. True where it has been for so long."""
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since >= for_s


class _Ending:
    """Instances on their way out: EC2 is asked to terminate each until it has said yes, and then what became of it."""

    def __init__(
        self, account: Account, instances: Sequence[Resource], *, clock: Clock, on_removed: Callable[[Resource], None]
    ) -> None:
        self._account = account
        self._left = {one.id: one for one in instances}
        self._seen = {one.id for one in instances if one.seen}
        self._accepted: set[str] = set()
        self._away = {one.id: _Lasting(clock) for one in instances}
        self._on_removed = on_removed
        self._refused: list[GpuctlError] = []

    def carry_out(self, *, deadline: float, sleep: Sleep) -> None:
        """To the end of all. Raises the first refusal, or CloudError at the deadline."""
        try:
            with aws_errors("terminate the instances"):
                poll(self._look, deadline=deadline, sleep=sleep)
        except NotReady as error:
            raise CloudError(
                f"not terminated in time: {', '.join(self._left)}", "run the same command again"
            ) from error
        if self._refused:
            raise self._refused[0]

    def _look(self) -> None:
        refusals = self._ask([id_ for id_ in self._left if id_ not in self._accepted])
        states = _states(self._account, list(self._left))
        for id_ in list(self._left):
            if self._gone(id_, states.get(id_)):
                self._on_removed(self._left.pop(id_))
            elif id_ in refusals and id_ in states:
                del self._left[id_]
                self._refused.append(_told(refusals[id_], f"terminate {id_}"))
        if self._left:
            raise NotReady

    def _ask(self, ids: Sequence[str]) -> dict[str, ClientError]:
        """Have them terminated. Those that may not be; what is not found is asked for again at the next look."""
        refused = {}
        for start in range(0, len(ids), _BATCH):
            for id_, error in _terminate(self._account, ids[start : start + _BATCH]).items():
                if error is None:
                    self._accepted.add(id_)
                elif classify(code_of(error)) is not ErrorClass.GONE:
                    refused[id_] = error
        return refused

    def _gone(self, id_: str, state: str | None) -> bool:
        if state is not None:
            self._seen.add(id_)
            self._away[id_].ended()
            return state == "terminated"
        if id_ in self._seen:
            return self._away[id_].lasts(for_s=0 if id_ in self._accepted else CONFIRM_S)
        return self._away[id_].lasts(for_s=AWAY_S)


def _terminate(account: Account, ids: Sequence[str]) -> dict[str, ClientError | None]:
    """What EC2 says to each; one by one where it refuses all for one of them. Raises NotYet where it is too busy."""
    ec2 = account.client("ec2")
    try:
        ec2.terminate_instances(InstanceIds=list(ids))
    except ec2.exceptions.ClientError as error:
        if classify(code_of(error)) is ErrorClass.WAIT:
            raise NotReady from error
        if len(ids) == 1:
            return {ids[0]: error}
        return {id_: answer for one in ids for id_, answer in _terminate(account, [one]).items()}
    return dict.fromkeys(ids)


def _states(account: Account, ids: Sequence[str]) -> dict[str, str]:
    """The states of those that EC2 knows. By filter, which takes unknown ids."""
    states: dict[str, str] = {}
    pages = account.client("ec2").get_paginator("describe_instances")
    for start in range(0, len(ids), _BATCH):
        filters: Any = [{"Name": "instance-id", "Values": list(ids[start : start + _BATCH])}]
        for page in pages.paginate(Filters=filters):
            states |= {
                raw["InstanceId"]: raw["State"]["Name"] for one in page["Reservations"] for raw in one["Instances"]
            }
    return states


def _remove_one(account: Account, kind: Kind, one: Resource, *, deadline: float, sleep: Sleep, clock: Clock) -> None:
    ec2 = account.client("ec2")
    away, in_use = _Lasting(clock), _Lasting(clock)

    def attempt() -> None:
        try:
            kind.remove(account, one.id)
        except ec2.exceptions.ClientError as error:
            means = classify(code_of(error))
            if kind.is_in_use(code_of(error)):
                if in_use.lasts(for_s=IN_USE_S):
                    raise _still_in_use(one, error) from error
                raise NotReady(str(error)) from error
            # A permission that hangs on a tag is refused for what EC2 does not know yet.
            if means is not ErrorClass.GONE and (means is not ErrorClass.NOT_ALLOWED or one.seen):
                raise
            if kind.is_known(account, one.id):
                if means is ErrorClass.NOT_ALLOWED:
                    raise
                away.ended()
                raise NotReady(str(error)) from error
            if not one.seen and not away.lasts(for_s=AWAY_S):
                raise NotReady(str(error)) from error

    try:
        with aws_errors(f"remove the {one.kind} {one.id}"):
            poll(attempt, deadline=deadline, sleep=sleep)
    except NotReady as error:
        raise _still_in_use(one, error) from error


def _still_in_use(one: Resource, why: Exception) -> StillInUse:
    return StillInUse(f"the {one.kind} {one.id} is still in use: {why}", "run the same command again")


def _told(error: ClientError, doing: str) -> GpuctlError:
    try:
        with aws_errors(doing):
            raise error
    except GpuctlError as told:
        return told
