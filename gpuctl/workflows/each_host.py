"""Work on all hosts of a run at the same time: what each one gave, or why it gave nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gpuctl.core.errors import GpuctlError, HostError
from gpuctl.workflows.hosts import RunHandle
from gpuctl.workflows.side_by_side import side_by_side

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What the work on one host gave, or the error that it ended with."""

    number: int
    result: T | None = None
    error: GpuctlError | None = None


def at_once(hosts: Sequence[RunHandle], work: Callable[[RunHandle], T]) -> list[T]:
    """Do something with each host at the same time; the first one's error is the one that is raised."""
    if len(hosts) == 1:
        return [work(host) for host in hosts]
    return side_by_side(hosts, work, name="hosts")


def each_host(hosts: Sequence[RunHandle], work: Callable[[RunHandle], T]) -> list[Outcome[T]]:
    """As `at_once`, but a host that fails does not hide what the others gave. Raises the first error where all fail."""

    def one(host: RunHandle) -> Outcome[T]:
        try:
            return Outcome(host.number, work(host))
        except GpuctlError as error:
            return Outcome(host.number, error=error)

    outcomes = at_once(hosts, one)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(errors) == len(outcomes):
        raise errors[0]
    return outcomes


def raise_failed(what: str, run: str, outcomes: Sequence[Outcome[Any]]) -> None:
    """Raises HostError where a host failed and others did not: each by its number, after what was not done to them."""
    failed = [(one.number, one.error) for one in outcomes if one.error is not None]
    if failed:
        told = ", and ".join(f"host {number} of {run}: {error.message}" for number, error in failed)
        raise HostError(f"{what} {told}", failed[0][1].next_step)
