"""Runs as a person sees them: derived from tags, from what this laptop has seen, and from the host's own word."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from gpuctl.aws.inventory import find_instances, find_resources
from gpuctl.aws.offers import prices
from gpuctl.core.answers import HostRow, LastLoss, ResourceRow, RunsAnswer, RunState, RunStatus, RunSummary
from gpuctl.core.cost import cost_usd
from gpuctl.core.errors import GpuctlError, HostError, HostKeyMismatch, HostUnreachable
from gpuctl.core.host_state import HostState
from gpuctl.core.hosts import Instance
from gpuctl.core.losses.points import Point, Split, last_by_split
from gpuctl.core.profile import Profile
from gpuctl.state.paths import Paths
from gpuctl.state.records import Progress
from gpuctl.state.runs import RunFolder, run_folder
from gpuctl.workflows.follow import Follower, note_state
from gpuctl.workflows.hosts import RunHandle, ask_state, instances_of, nobody
from gpuctl.workflows.regions import accounts_to_ask, ask_each

T = TypeVar("T")

ASK_TIMEOUT_S = 3.0
READ_WITHIN_S = 30.0
"""For so long a log that comes is read for its last losses: a host may send one without end."""
ASKED_WITHIN_S = 5.0
"""However slow a host is in each step of a connection, `ls` waits no longer for all of them together."""

_OFF = ("stopping", "stopped")


@dataclass(frozen=True)
class Known:
    """What is known of a run beside EC2's word: by this laptop, and by its host where that was asked and answered."""

    progress: Progress | None = None
    launching: bool = False
    asked: bool = False
    answer: HostState | None = None


def list_runs(
    profile: Profile, *, paths: Paths, region: str | None, now: datetime, tell: Callable[[str], None] = nobody
) -> RunsAnswer:
    """Every run with a host in the regions that are asked: two kinds of AWS calls in each, then all hosts at once.

    `tell` hears of a run whose folder here is damaged; its row has what the account knows.
    """
    asked = ask_each(accounts_to_ask(profile, paths, region), lambda account: prices(account, find_instances(account)))
    by_run: dict[tuple[str, str], tuple[RunHandle, list[Instance]]] = {}
    for account, instances in asked.said:
        for one in instances:
            run = RunHandle(one.tags.run, profile, account, run_folder(paths.runs, one.tags.run))
            by_run.setdefault((run.name, account.region), (run, []))[1].append(one)
    runs = [by_run[key] for key in sorted(by_run)]
    for run, _ in runs:
        _tell_damaged(run.folder, tell)
    rows = zip(runs, _ask_hosts(runs), strict=True)
    return RunsAnswer(
        tuple(summary(run, hosts, known, now=now) for (run, hosts), known in rows), asked.regions, asked.silent
    )


def _tell_damaged(folder: RunFolder, tell: Callable[[str], None]) -> None:
    try:
        if folder.exists():
            folder.read()
    except GpuctlError as error:
        tell(str(error))


def _ask_hosts(runs: Sequence[tuple[RunHandle, list[Instance]]]) -> list[Known]:
    """What each run's host says, where this laptop has the key: of a run that has ended, when its host ends itself."""
    known = [_known_here(run) for run, _ in runs]
    asked = {
        at: partial(_ask, run)
        for at, (run, hosts) in enumerate(runs)
        if run.folder.has_key() and any(h.state == "running" for h in hosts)
    }
    answers = _gathered(asked, within_s=ASKED_WITHIN_S)
    return [replace(one, asked=True, answer=answers.get(at)) if at in asked else one for at, one in enumerate(known)]


def _ask(run: RunHandle) -> HostState | None:
    try:
        state = ask_state(run, timeout_s=ASK_TIMEOUT_S)
    except GpuctlError:
        return None
    with suppress(OSError):
        note_state(run, state)
    return state


def _gathered(calls: Mapping[int, Callable[[], T | None]], *, within_s: float) -> dict[int, T]:
    """What the calls answer in that time, each in a thread of its own: one that hangs keeps nobody waiting longer."""
    answers: SimpleQueue[tuple[int, T | None]] = SimpleQueue()
    for name, call in calls.items():
        work = partial(_put_answer, answers, name, call)
        threading.Thread(target=work, name=f"gpuctl ls {name}", daemon=True).start()
    end, found = time.monotonic() + within_s, {}
    with suppress(Empty):
        for _ in calls:
            name, answer = answers.get(timeout=max(0.0, end - time.monotonic()))
            if answer is not None:
                found[name] = answer
    return found


def _put_answer(answers: SimpleQueue[tuple[int, T | None]], name: int, call: Callable[[], T | None]) -> None:
    answers.put((name, call()))


def _known_here(run: RunHandle) -> Known:
    progress = run.folder.progress() if run.folder.exists() else None
    return Known(progress, launching=run.folder.being_launched())


def summary(run: RunHandle, hosts: list[Instance], known: Known, *, now: datetime) -> RunSummary:
    """One run as `ls` shows it."""
    costing = [h for h in hosts if h.price_usd_per_hour is not None and h.state not in (*_OFF, "terminated")]
    price = sum((h.price_usd_per_hour or Decimal(0) for h in costing), Decimal(0))
    cost = sum((cost_usd(h.price_usd_per_hour or Decimal(0), now - h.launched) for h in costing), Decimal(0))
    seen, state, record = run.kept.seen(), state_of({h.state for h in hosts}, known), run.folder.known()
    return RunSummary(
        run=run.name,
        job=next((h.tags.job for h in hosts), None) or (record.plan.job if record else None),
        cloud=run.profile.name,
        region=run.account.region,
        state=state,
        hosts=tuple(host_row(h) for h in hosts),
        price_usd_per_hour=price if costing else None,
        cost_usd=cost if costing else None,
        lease_ends=min((h.tags.lease_ends for h in hosts), default=None),
        seen=seen.at if seen else None,
        seen_state=seen.state if seen else None,
        why=seen.why if seen and state in (seen.state, "lost") else None,
        power_off_at=seen.power_off_at if seen and any(h.state == "running" for h in hosts) else None,
    )


def state_of(instances: Set[str], known: Known) -> RunState:
    """A run's state, given its instances' states: the host's own word first, and never more than is known.

    Beside a run's own states: `host up`, where nothing was started on it or nobody here can ask; `host stopped`.
    """
    if instances & {"running"}:
        return _state_of_a_host_that_is_up(known)
    if instances & {"pending"}:
        return "starting"
    if instances & set(_OFF):
        return "host stopped"
    progress = known.progress
    if progress is None or progress.down or not progress.started:
        return "down"
    return _ended(progress) or "interrupted"


def _state_of_a_host_that_is_up(known: Known) -> RunState:
    said = known.answer.training if known.answer is not None else None
    if said in ("succeeded", "failed", "stopped", "running"):
        return said
    if known.launching:
        return "starting"
    if said in (None, "none") and known.progress is not None and (ended := _ended(known.progress)) is not None:
        return ended
    return "lost" if known.asked and said is None else "host up"


def _ended(progress: Progress) -> RunState | None:
    """How its training ended, as far as this laptop has seen."""
    return progress.ended if progress.ended in ("succeeded", "failed", "stopped") else None


def host_row(instance: Instance) -> HostRow:
    """One host as answers have it."""
    return HostRow(instance.instance_id, instance.instance_type, instance.zone, instance.market, instance.state)


def status(run: RunHandle, *, now: datetime) -> RunStatus:
    """One run whole. Where this laptop has no key for it, losses and exit code are not known."""
    hosts = prices(run.account, instances_of(run))
    resources = find_resources(run.account, run=run.name)
    points: Sequence[Point] = ()
    known, problem = _known_here(run), None
    if run.folder.exists():
        known, points, problem = _ask_host(run, known, living=any(h.state == "running" for h in hosts))
    return RunStatus(
        **vars(summary(run, hosts, known, now=now)),
        exit_code=run.folder.progress().exit_code,
        losses=_losses(points) if run.folder.exists() else None,
        resources=tuple(ResourceRow(one.kind, one.id) for one in resources),
        ssh_config=str(run.folder.ssh_config) if run.folder.ssh_config.exists() else None,
        problem=problem,
    )


def _ask_host(run: RunHandle, known: Known, *, living: bool) -> tuple[Known, Sequence[Point], str | None]:
    """What the host says, the points so far, and what kept it from telling more."""
    follower = Follower(run, reads="points")
    follower.history()
    if not living or not run.folder.has_key():
        keyless = not run.folder.has_key() and not run.folder.progress().down
        return known, follower.losses.points, "this laptop has no key for it" if keyless else None
    known, problem = replace(known, asked=True), None
    enough = time.monotonic() + READ_WITHIN_S
    try:
        for update in follower.updates(until_end=False):
            if update.ended is not None:
                known = replace(known, answer=update.ended)
            elif time.monotonic() > enough:
                problem = f"its log did not come to its end in {READ_WITHIN_S:.0f} s: the rest comes the next time"
                break
        if problem is not None:
            known = replace(known, answer=ask_state(run, timeout_s=ASK_TIMEOUT_S))
    except (HostUnreachable, HostKeyMismatch) as error:
        problem = error.message
    except HostError as error:  # it answers, and has nothing that tells of a training
        known, problem = replace(known, answer=HostState("none")), error.message
    return known, follower.losses.points, problem


def _losses(points: Sequence[Point]) -> dict[Split, LastLoss]:
    return {split: LastLoss(last.step, last.loss, last.nonfinite) for split, last in last_by_split(points).items()}
