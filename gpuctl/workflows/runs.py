"""Runs as a person sees them: derived from tags, from what this laptop has seen, and from the host's own word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from gpuctl.aws.account import Account
from gpuctl.aws.inventory import find_instances, find_resources
from gpuctl.aws.offers import prices
from gpuctl.core.errors import GpuctlError, HostError
from gpuctl.core.hosts import Instance
from gpuctl.core.metrics import Point, Split, last_by_split
from gpuctl.core.plan import cost_usd
from gpuctl.core.profile import Profile
from gpuctl.core.tags import iso
from gpuctl.state.places import Places
from gpuctl.state.runs import Progress, RunFolder, run_folder
from gpuctl.workflows.follow import ENDED, Follower
from gpuctl.workflows.hosts import OpenRun, instances_of, nobody


def list_runs(
    profile: Profile, *, places: Places, region: str | None, now: datetime, tell: Callable[[str], None] = nobody
) -> list[dict[str, Any]]:
    """Every run with a host in the account, as `ls --json` has it: two kinds of AWS calls, no connection to a host.

    `tell` hears of a run whose folder here is damaged; its row has what the account knows.
    """
    account = Account(profile, region)
    instances = prices(account, find_instances(account, run=None, owner=None))
    by_run: dict[str, list[Instance]] = {}
    for instance in instances:
        by_run.setdefault(instance.tags.run, []).append(instance)
    folders = {name: run_folder(places.runs, name) for name in sorted(by_run)}
    for folder in folders.values():
        if folder.exists():
            try:
                folder.read()
            except GpuctlError as error:
                tell(str(error))
    return [
        summary(name, by_run[name], folder, profile=profile, region=account.region, now=now)
        for name, folder in folders.items()
    ]


def summary(
    name: str, hosts: list[Instance], folder: RunFolder, *, profile: Profile, region: str, now: datetime
) -> dict[str, Any]:
    """One run as `ls --json` has it."""
    progress = folder.progress() if folder.exists() else None
    known = [h for h in hosts if h.price_usd_per_hour is not None and not h.gone]
    price = sum((h.price_usd_per_hour or Decimal(0) for h in known), Decimal(0)) if known else None
    cost = sum((cost_usd(h.price_usd_per_hour or Decimal(0), now - h.launched) for h in known), Decimal(0))
    plan = folder.read().plan if folder.exists() and not hosts else None
    ends = hosts[0].tags.lease_ends if hosts else None
    return {
        "run": name,
        "job": hosts[0].tags.job if hosts else (plan.job if plan else None),
        "cloud": profile.name,
        "region": region,
        "state": state_of(hosts, progress),
        "hosts": [host_row(h) for h in hosts],
        "price_usd_per_hour": None if price is None else float(price),
        "cost_usd": float(cost) if known else None,
        "lease_ends": None if ends is None else iso(ends),
    }


def state_of(hosts: Iterable[Instance], progress: Progress | None) -> str:
    """A run's state by what EC2 tells of its hosts and what this laptop has seen; the host itself may know better."""
    states = {h.state for h in hosts}
    if states & {"pending", "running"}:
        if progress is not None and progress.ended:
            return progress.ended
        return "starting" if "running" not in states or (progress is not None and not progress.started) else "running"
    if progress is None or progress.down or not progress.started:
        return "down"
    return progress.ended or "interrupted"


def host_row(instance: Instance) -> dict[str, Any]:
    """One host as `ls --json` has it."""
    return {
        "instance_id": instance.instance_id,
        "instance_type": instance.instance_type,
        "zone": instance.zone,
        "market": instance.market,
        "state": instance.state,
    }


def status(run: OpenRun, *, now: datetime) -> dict[str, Any]:
    """One run whole, as `status --json` has it. Where this laptop has no key to it, losses and exit code are null."""
    hosts = prices(run.account, instances_of(run))
    row = summary(run.name, hosts, run.folder, profile=run.profile, region=run.account.region, now=now)
    resources = find_resources(run.account, run=run.name)
    points: list[Point] = []
    problem = None
    if run.folder.exists():
        points, problem = _ask_host(run, row, living=any(h.state == "running" for h in hosts))
    progress = run.folder.progress()
    last = last_by_split(points)
    return {
        **row,
        "exit_code": progress.exit_code,
        "losses": _losses(last) if run.folder.exists() else None,
        "resources": [{"kind": r.kind, "id": r.id} for r in resources],
        "ssh_config": str(run.folder.ssh_config) if run.folder.ssh_config.exists() else None,
        "problem": problem,
    }


def _ask_host(run: OpenRun, row: dict[str, Any], *, living: bool) -> tuple[list[Point], str | None]:
    """The points so far, and what kept the host from telling more; the row's state becomes the host's own word."""
    follower = Follower(run)
    follower.history()
    if not living or not run.folder.has_key():
        keyless = not run.folder.has_key() and not run.folder.progress().down
        return follower.losses.points, "this laptop has no key to it" if keyless else None
    try:
        for update in follower.updates(until_end=False):
            if update.ended is not None and run.folder.progress().started:
                said = str(update.ended.get("state"))
                row["state"] = said if said in (*ENDED, "running") else "starting"
    except HostError as error:
        row["state"] = "lost" if row["state"] == "running" else row["state"]
        return follower.losses.points, error.message
    return follower.losses.points, None


def _losses(last: Mapping[Split, Point]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for split, point in last.items():
        rows[split] = {"step": point.step, "loss": point.loss}
        if point.nonfinite is not None:
            rows[split]["nonfinite"] = point.nonfinite
    return rows
