"""Down: home what is not home, then everything of the run gone, and AWS asked again whether it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

from gpuctl.aws.account import Account
from gpuctl.aws.inventory import Resource, find_instances, find_resources
from gpuctl.aws.offers import prices
from gpuctl.core.answers import DownAnswer, DownFailure, ResourceRow, SilentRegion
from gpuctl.core.cost import hours
from gpuctl.core.errors import CloudError, CloudGone, GpuctlError, HostError, NotFound, NotHome
from gpuctl.core.hosts import Instance, by_number
from gpuctl.core.outputs import Wish
from gpuctl.core.profile import Profile
from gpuctl.remote.host import Host
from gpuctl.remote.training import stop_training, training_state
from gpuctl.state.paths import Paths
from gpuctl.state.runs import RunFolder, run_folder
from gpuctl.workflows.boot import open_host_started
from gpuctl.workflows.clouds import open_cloud
from gpuctl.workflows.each_host import at_once
from gpuctl.workflows.follow import Follower
from gpuctl.workflows.hosts import HOLDING, RunHandle, hosts_known, open_run
from gpuctl.workflows.pull import (
    AS_THE_JOB_SAYS,
    PullResult,
    claim,
    destination_of,
    not_home,
    note_home,
    pull_from,
)
from gpuctl.workflows.regions import accounts_to_ask, ask_each, folders_up, regions_of
from gpuctl.workflows.removal import accounts_of, known_resources, may_have_made, remove_everywhere
from gpuctl.workflows.reporter import Reporter
from gpuctl.workflows.side_by_side import side_by_side

REMOVE_TIMEOUT_S = 600
OFFER_AFTER_S = 45.0
POLITE_S = 40
"""How long a command that still runs gets to save itself before its outputs are brought home."""


@dataclass(frozen=True)
class DownResult:
    """What was removed, what is left (nothing, unless AWS still tells of it), what came home before, and by the run's
    name why one could not be taken down."""

    removed: tuple[Resource, ...]
    left: tuple[Resource, ...]
    brought: tuple[PullResult, ...]
    failed: tuple[tuple[str, GpuctlError], ...] = ()

    @property
    def answer(self) -> DownAnswer:
        """As `down --json` prints it."""
        removed, left = (tuple(ResourceRow(one.kind, one.id) for one in each) for each in (self.removed, self.left))
        return DownAnswer(removed, left, tuple(DownFailure(run, str(error)) for run, error in self.failed))


@dataclass(frozen=True)
class OwnRuns:
    """The caller's own runs, and which regions were asked for them."""

    runs: tuple[RunHandle, ...]
    regions: tuple[str, ...] = ()
    silent: tuple[SilentRegion, ...] = ()


def runs_of_mine(profile: Profile, *, paths: Paths, region: str | None) -> OwnRuns:
    """Every run of the caller's own that left anything in the regions that are asked, or that this laptop believes to
    be up there. Raises what keeps all of them from answering."""
    accounts = accounts_to_ask(profile, paths, region)
    owner = _owner(accounts)
    asked = ask_each(accounts, lambda account: {one.run for one in find_resources(account, owner=owner) if one.run})
    found: dict[str, list[Account]] = {}
    for account, names in asked.said:
        for name in names:
            found.setdefault(name, []).append(account)
    for folder in folders_up(paths, profile):
        home = next((one for one in accounts if one.region == folder.header().region), None)
        if home is not None:
            found.setdefault(folder.name, []).append(home)
    runs = [run for name in sorted(found) for run in _handles(name, profile, run_folder(paths.runs, name), found[name])]
    return OwnRuns(tuple(runs), asked.regions, asked.silent)


def _owner(accounts: Sequence[Account]) -> str:
    """Who asks, as the first region says that answers."""
    *others, last = accounts
    for account in others:
        try:
            return account.owner()
        except CloudGone:
            raise
        except CloudError:
            continue
    return last.owner()


def _handles(name: str, profile: Profile, folder: RunFolder, found: Sequence[Account]) -> list[RunHandle]:
    """A run once, where this laptop knows in which regions it is: `accounts_of` has them, and the handle's own besides.
    Of another laptop's run each region is taken down by itself."""
    known = regions_of(folder)
    if not known:
        return [RunHandle(name, profile, account, folder) for account in found]
    elsewhere = [account for account in found if account.region not in known]
    return [RunHandle(name, profile, (elsewhere or found)[0], folder)]


def run_by_name(
    name: str, *, paths: Paths, cloud: str | None, region: str | None, tell: Callable[[str], None]
) -> RunHandle:
    """A run to take down. Where what this laptop knows of it is damaged that is told, and the account is enough."""
    try:
        return open_run(name, paths=paths, cloud=cloud, region=region, tell=tell)
    except GpuctlError as error:
        folder = run_folder(paths.runs, name)
        if not folder.exists() or folder.known() is not None:
            raise
        tell(error.message)
        profile = open_cloud(cloud or "aws", paths, on_lost=tell)
        return RunHandle(name, profile, Account(profile, region), folder, tell)


def down(
    runs: Sequence[RunHandle], *, discard: bool, now: datetime, reporter: Reporter, wish: Wish = AS_THE_JOB_SAYS
) -> DownResult:
    """Take runs down, each by itself: one that cannot be taken down does not keep the others.

    Where there is one alone, its error is raised: HostError, with nothing removed, where outputs would be lost that can
    be saved; NotFound. Of several, `failed` has the errors.
    """
    if len(runs) == 1:
        return _take_down(runs[0], discard=discard, now=now, reporter=reporter, wish=wish)

    def one(run: RunHandle) -> DownResult:
        try:
            return _take_down(run, discard=discard, now=now, reporter=reporter, wish=wish)
        except GpuctlError as error:
            return DownResult((), (), (), ((run.name, error),))

    went = side_by_side(runs, one, name="down")
    return DownResult(
        removed=tuple(r for each in went for r in each.removed),
        left=tuple(r for each in went for r in each.left),
        brought=tuple(b for each in went for b in each.brought),
        failed=tuple(f for each in went for f in each.failed),
    )


def _take_down(run: RunHandle, *, discard: bool, now: datetime, reporter: Reporter, wish: Wish) -> DownResult:
    accounts, found, silent = _looked(run)
    if not found:
        _check_place(run, accounts)
    brought = _bring_home(run, accounts, now, reporter, wish) if found and not discard else []
    if silent:
        run.folder.note(home=False)  # a host in a region that does not tell may hold more
    removed: list[Resource] = []
    if found or may_have_made(run.folder):
        regions = ", ".join(account.region for account in accounts)
        counted = f"{len(found)} resource{'s' * (len(found) != 1)}"
        reporter.phase("down", f"removing {counted} of {run.name} in {regions}")
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        remove_everywhere(
            accounts, run.name, run.folder, deadline=deadline, reporter=reporter, on_removed=removed.append
        )
    reporter.phase("verify", f"asking AWS what is left of {run.name}")
    left = [one for account in accounts for one in find_resources(account, run=run.name)]
    if not left and not silent:
        _forget(run.folder)
    return DownResult(tuple(removed), tuple(left), tuple(brought), ((run.name, silent),) if silent else ())


def _looked(run: RunHandle) -> tuple[list[Account], list[Resource], GpuctlError | None]:
    """The regions that tell what is there of the run, as accounts; what that is; the error of those that do not.

    One that does not keeps no host elsewhere, which costs. Raises its error where nothing is found in any other.
    """
    accounts: list[Account] = []
    found: list[Resource] = []
    silent: list[tuple[str, GpuctlError]] = []
    for account in accounts_of(run.account, run.folder):
        try:
            found += known_resources(account, run.name, run.folder)
        except CloudGone:
            raise
        except GpuctlError as error:
            silent.append((account.region, error))
        else:
            accounts.append(account)
    if silent and not found:
        raise silent[0][1]
    regions = " and ".join(f"{region} ({why.message})" for region, why in silent)
    later = f"`gpuctl down {run.name}` removes it once AWS answers there"
    return accounts, found, GpuctlError(f"could not check what is left in {regions}", later) if silent else None


def _check_place(run: RunHandle, accounts: Sequence[Account]) -> None:
    """Nothing carries the run's tag. Raises NotFound where that is no wonder: it was looked for in another place than
    where this laptop launched it, whose keys must stay."""
    looked = ", ".join(account.region for account in accounts)
    if not run.folder.exists():
        raise NotFound(
            f"there is no run called {run.name!r} in {looked}, and nothing is tagged with it",
            "`gpuctl ls` shows the runs",
        )
    if run.folder.progress().down:
        return
    stored = run.folder.known_header()
    if stored is None:
        raise NotFound(
            f"nothing is tagged with {run.name} in {looked}, and this laptop's record of it is damaged",
            "name its cloud and region with --cloud and --region",
        )
    if stored.cloud != run.profile.name:
        raise NotFound(
            f"nothing is tagged with {run.name} on the cloud {run.profile.name}: it was launched on {stored.cloud}",
            f"gpuctl --cloud {stored.cloud} down {run.name}",
        )
    record = run.folder.known()
    if record is not None and record.plan.owner.split(":")[0] != accounts[0].owner().split(":")[0]:
        raise NotFound(
            f"nothing is tagged with {run.name} in this AWS account: it was launched in another",
            "use the credentials that it was launched with",
        )


def _forget(folder: RunFolder) -> None:
    """What a laptop keeps of a run that is gone: what was seen of its training, no keys; of a half-made one nothing."""
    if not folder.exists():
        return
    if not folder.may_have_started() and folder.known() is not None:
        folder.remove()
        return
    folder.note(down=True)
    folder.forget_keys()


def _bring_home(
    run: RunHandle, accounts: Sequence[Account], now: datetime, reporter: Reporter, wish: Wish
) -> list[PullResult]:
    """What is not home of all of the run's hosts, wherever they are; none is removed before all are saved."""
    were_known = len(hosts_known(run))
    hosts, living = _hosts_that_hold(run, accounts)
    if not living:
        return []
    if not run.folder.has_key():
        raise HostError(
            f"this laptop has no key for run {run.name}, so it cannot download the outputs",
            f"use the laptop that launched it, or discard them with --discard; {_waiting_costs(run, living, now)}",
        )
    if not run.folder.may_have_started():
        return []
    where = destination_of(run, None)
    try:
        claim(run, where, hosts)
        with offering_discard(run, reporter):
            saved = _save_all(run, hosts, where=where, reporter=reporter, wish=wish)
    except HostError as error:
        if run.folder.progress().home and len(hosts) <= were_known:
            reporter.note(f"{run.name} does not answer, but its outputs are already downloaded")
            return []
        raise HostError(
            f"could not get the outputs of run {run.name} ({error.message})",
            f"try again, or discard them with --discard; {_waiting_costs(run, living, now)}",
        ) from error
    note_home(run, where, saved)
    for left in filter(None, (not_home(run.name, one) for one in saved)):
        raise NotHome(left.message, f"{left.next_step}; {_waiting_costs(run, living, now)}")
    return saved


@contextmanager
def offering_discard(run: RunHandle, reporter: Reporter, *, after_s: float = OFFER_AFTER_S) -> Iterator[None]:
    """Whatever a host does, who waits for it is told how to go on without it."""
    text = (
        f"still waiting; to delete {run.name} without its remaining outputs: Ctrl-C, gpuctl down {run.name} --discard"
    )
    timer = threading.Timer(after_s, reporter.note, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _hosts_that_hold(run: RunHandle, accounts: Sequence[Account]) -> tuple[list[RunHandle], list[Instance]]:
    """The run's hosts that have a disk, each in its region's account, and their instances. Their numbers are kept:
    one that ends later gives its number, and so its place at home, to no other."""
    of = {
        one.instance_id: (account, one)
        for account in accounts
        for one in find_instances(account, run=run.name, owner=None)
        if one.state in HOLDING
    }
    living = [one for _, one in of.values()]
    numbers = by_number(living, run.folder.progress().instance_ids)
    known = list(run.folder.progress().instance_ids)
    known += [one.instance_id for one in numbers.values() if one.instance_id not in known]
    if run.folder.exists() and len(known) > len(run.folder.progress().instance_ids):
        run.folder.note(instance_ids=tuple(known))
    hosts = [replace(run, number=number, account=of[one.instance_id][0]) for number, one in numbers.items()]
    return hosts, living


def _save_all(
    run: RunHandle, hosts: Sequence[RunHandle], *, where: Path, reporter: Reporter, wish: Wish
) -> list[PullResult]:
    """All of the run's hosts at once. That all is home is remembered before their logs are kept."""
    brought: list[PullResult] = []

    def on_saved(saved: PullResult) -> None:
        brought.append(saved)
        if len(brought) == len(hosts):
            note_home(run, where, brought)

    return at_once(hosts, partial(_save, where=where, reporter=reporter, wish=wish, on_saved=on_saved))


def _save(
    run: RunHandle, *, where: Path, reporter: Reporter, wish: Wish, on_saved: Callable[[PullResult], None]
) -> PullResult:
    """One host: its training ended politely, its outputs home, its log kept as far as that goes."""
    with open_host_started(run) as host:
        if training_state(host, gpus=False).training == "running":
            reporter.phase("stop", f"{run.alias} is still training: asking it to save and stop")
            stop_training(host, grace_s=POLITE_S)
        saved = pull_from(run, host, where, wish=wish, reporter=reporter)
        on_saved(saved)
        try:
            _keep_log(run, host)
        except HostError as error:  # among the outputs it is home
            reporter.note(f"the end of the log of {run.alias} could not be saved for `gpuctl tail` ({error.message})")
        return saved


def _keep_log(run: RunHandle, host: Host) -> None:
    """The end of the log, for `tail` and `metrics` after the host is gone."""
    follower = Follower(run, reads="nothing")
    follower.history()
    for _ in follower.events(host, until_end=False):
        pass


def _waiting_costs(run: RunHandle, living: list[Instance], now: datetime) -> str:
    """What refusing costs, in words."""
    if all(i.state in ("stopping", "stopped") for i in living):
        return "its disk costs money until it is removed"
    priced = prices(run.account, living)
    an_hour = sum((i.price_usd_per_hour or Decimal(0) for i in priced), Decimal(0))
    left = hours(max(i.tags.lease_ends for i in living) - now)
    return f"it costs ${an_hour:.2f} an hour until its lease ends in {left:.1f} h"
