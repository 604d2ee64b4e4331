"""Removing a run: what its tags find, what its launch is known to have made, and what it may have made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from gpuctl.aws.account import Account
from gpuctl.aws.inventory import AWAY_S, Resource, find_resources, survey
from gpuctl.aws.removal import StillInUse, remove
from gpuctl.core.errors import CloudError, CloudGone, GpuctlError, NotAllowed
from gpuctl.state.runs import RunFolder
from gpuctl.workflows.regions import regions_of
from gpuctl.workflows.reporter import Reporter

_ROUNDS_IN_VAIN = 6
"""How often a removal is tried again that AWS did not answer, or could not do: half a minute in all."""
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
_LOOK_EVERY_S = 1.0
_UNKNOWN_FOR_S = 600.0
"""What was asked for so long ago, by the clock on the wall, is found by its tags if it is there."""


def accounts_of(account: Account, folder: RunFolder) -> list[Account]:
    """The account in each region in which the run's launch has begun an attempt or made something, that of its host
    first, and the caller's own last."""
    return [account.in_region(region) for region in dict.fromkeys([*regions_of(folder), account.region])]


def tagged(account: Account, folder: RunFolder) -> list[Resource]:
    """What carries the run's name in those regions."""
    return [one for each in accounts_of(account, folder) for one in find_resources(each, run=folder.name)]


def remove_everywhere(
    accounts: Sequence[Account],
    run: str,
    folder: RunFolder,
    *,
    deadline: float,
    reporter: Reporter,
    on_removed: Callable[[Resource], None] = lambda resource: None,
) -> None:
    """`remove_run` in each region; one that fails does not keep the others. Raises the first error."""
    failed: list[GpuctlError] = []
    for account in accounts:
        try:
            remove_run(account, run, folder, deadline=deadline, reporter=reporter, on_removed=on_removed)
        except GpuctlError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def known_resources(account: Account, run: str, folder: RunFolder) -> list[Resource]:
    """What is tagged with the run, and what this laptop's launch of it was told that it had made."""
    found, failed = survey(account, run=run)
    if failed:
        raise failed[0]
    return [*found, *(one for one in _made(folder, account.region) if one not in found)]


def may_have_made(folder: RunFolder) -> bool:
    """Whether the launch was cut off in a call that makes something, a moment ago."""
    progress = folder.progress()
    return progress.asked is not None and not progress.down and time.time() - progress.asked_at < _UNKNOWN_FOR_S


def remove_run(
    account: Account,
    run: str,
    folder: RunFolder,
    *,
    deadline: float,
    reporter: Reporter,
    on_removed: Callable[[Resource], None] = lambda resource: None,
) -> None:
    """Remove everything of a run in one region, and ask AWS again until it tells of nothing.

    Raises what AWS refuses, or the last failure where it does not answer for half a minute; CloudError at the deadline;
    CloudGone at once where the embedded cloud has gone, with all that was in it.

    What a launch made a moment ago may not be found yet: its ids are removed until they have been found or have stayed
    away long enough, and where it was cut off in a call, what that may have made is looked for as long.
    """
    gone: set[Resource] = set()
    pauses = iter(_PAUSES_S[:_ROUNDS_IN_VAIN])
    expecting = _Expected(folder, account.region)

    def removed(one: Resource) -> None:
        if one not in gone:
            gone.add(one)
            _forget(folder, one)
            on_removed(one)

    while True:
        found, failed = survey(account, run=run)
        still = not found or any(one in gone for one in found)
        todo = [*found, *(one for one in _made(folder, account.region) if one not in found and one not in gone)]
        in_use = None
        try:
            remove(account, todo, deadline=deadline, on_removed=removed)
        except StillInUse as error:
            in_use = error
        except GpuctlError as error:
            failed.insert(0, error)
        if not failed and not todo and not expecting.more(gone):
            return
        if failed:
            _raise_if_gone(account, failed)
            _wait_after(failed, pauses, reporter)
        elif still:
            time.sleep(_LOOK_EVERY_S)
        if time.monotonic() >= deadline:
            raise in_use or CloudError(f"not removed in time: {', '.join(f'{one.kind} {one.id}' for one in todo)}")


def _forget(folder: RunFolder, one: Resource) -> None:
    """What is gone is not waited for again by a later `down`; where that cannot be written down, it is."""
    made = folder.progress().made
    if any(each.id == one.id for each in made):
        with suppress(OSError):
            folder.note(made=tuple(each for each in made if each.id != one.id))


def _made(folder: RunFolder, region: str) -> list[Resource]:
    """What a launch was told that it had made there, a moment ago."""
    progress = folder.progress()
    if progress.down or progress.started or time.time() - progress.asked_at >= _UNKNOWN_FOR_S:
        return []
    made = [one for one in progress.made if one.region in ("", region)]
    return [Resource(one.kind, one.id, folder.name, seen=False) for one in made]


class _Expected:
    """What a call may have made whose answer never came: how long it is looked for."""

    def __init__(self, folder: RunFolder, region: str) -> None:
        self._kind = folder.progress().asked if may_have_made(folder) else None
        self._known = {one.id for one in _made(folder, region)}
        self._until = time.monotonic() + AWAY_S

    def more(self, gone: set[Resource]) -> bool:
        """Whether it may still turn up."""
        if self._kind is None or time.monotonic() >= self._until:
            return False
        return not any(one.kind == self._kind and one.id not in self._known for one in gone)


def _raise_if_gone(account: Account, failed: list[GpuctlError]) -> None:
    """Of an endpoint of the caller's own on this machine nobody knows what is behind it, so it is asked again."""
    gone = next((one for one in failed if isinstance(one, CloudGone)), None)
    if gone is not None and account.profile.cloud_key:
        raise gone


def _wait_after(failed: list[GpuctlError], pauses: Iterator[float], reporter: Reporter) -> None:
    """Say what failed, and pause before the next try. Raises it where another try would not help, or has not."""
    error = failed[0]
    pause = next(pauses, None)
    if pause is None or all(isinstance(one, NotAllowed) for one in failed):
        raise error
    reporter.note(f"{error.message}; trying again")
    time.sleep(pause)
