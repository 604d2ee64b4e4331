"""The regions that an answer about all runs speaks of: the usual one, and those in which this laptop has runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from gpuctl.aws.account import Account
from gpuctl.core.answers import SilentRegion
from gpuctl.core.errors import CloudGone, GpuctlError, UsageError
from gpuctl.core.profile import Profile
from gpuctl.state.paths import Paths
from gpuctl.state.runs import RunFolder, all_run_folders
from gpuctl.workflows.side_by_side import side_by_side

T = TypeVar("T")


@dataclass(frozen=True)
class RegionAnswers(Generic[T]):
    """What each region that answered said, as the account there, and the others with why they did not."""

    said: tuple[tuple[Account, T], ...]
    silent: tuple[SilentRegion, ...]

    @property
    def regions(self) -> tuple[str, ...]:
        """Those that answered."""
        return tuple(account.region for account, _ in self.said)


def accounts_to_ask(profile: Profile, paths: Paths, region: str | None) -> list[Account]:
    """The account in the region that was named; where none was, in the usual one, and in each in which this laptop's
    launch of a run has begun something that it does not know to be down."""
    account = Account(profile, region)
    if region is not None:
        return [account]
    others = [each for folder in folders_up(paths, profile) for each in regions_of(folder)]
    return [account.in_region(each) for each in dict.fromkeys([account.region, *others])]


def ask_each(accounts: Sequence[Account], ask: Callable[[Account], T]) -> RegionAnswers[T]:
    """Ask the regions side by side; one that is silent does not keep the others.

    Raises the first one's error where none answers or the first is no region, and CloudGone.
    """

    def tried(account: Account) -> T | GpuctlError:
        try:
            return ask(account)
        except GpuctlError as error:
            return error

    if len(accounts) == 1:
        return RegionAnswers(((accounts[0], ask(accounts[0])),), ())
    answers = side_by_side(accounts, tried, name="region")
    errors = [answer for answer in answers if isinstance(answer, GpuctlError)]
    if len(errors) == len(answers) or (errors and isinstance(answers[0], UsageError)):
        raise errors[0]
    for error in errors:
        if isinstance(error, CloudGone):
            raise error
    pairs = list(zip(accounts, answers, strict=True))
    return RegionAnswers(
        tuple((account, answer) for account, answer in pairs if not isinstance(answer, GpuctlError)),
        tuple(SilentRegion(at.region, answer.message) for at, answer in pairs if isinstance(answer, GpuctlError)),
    )


def folders_up(paths: Paths, profile: Profile) -> list[RunFolder]:
    """The folders of the runs on a cloud that this laptop does not know to be down, by name; damaged ones left out."""
    found = []
    for folder in all_run_folders(paths.runs):
        with suppress(GpuctlError):
            if not folder.progress().down and folder.header().cloud == profile.name:
                found.append(folder)
    return found


def regions_of(folder: RunFolder) -> list[str]:
    """The regions in which a run's launch has begun an attempt or made something, that of its host first."""
    regions: list[str] = []
    with suppress(GpuctlError):  # there is no record, or none that can be read
        regions.append(folder.header().region)
        regions.extend(attempt.region for attempt in reversed(folder.read().begun))
    regions.extend(one.region for one in folder.progress().made if one.region)
    return list(dict.fromkeys(regions))
