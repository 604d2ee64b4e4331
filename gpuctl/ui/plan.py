"""A plan for people: what a launch will do, what it costs, when it ends, when outputs are lost."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gpuctl.core.cost import cost_usd
from gpuctl.core.lease import Lease
from gpuctl.core.offers import Market
from gpuctl.core.outputs import MAX_SIZE, amount
from gpuctl.core.plan import Attempt, Plan, Pool, Workload, most_usd_per_hour
from gpuctl.core.text import safe
from gpuctl.core.uploads import DEFAULT, DOWNLOADED, SECRET, NotUploaded, UploadSummary
from gpuctl.ui.tables import facts
from gpuctl.ui.words import clock, money, price, span

if TYPE_CHECKING:
    from rich.console import RenderableType

_OTHERS_SHOWN = 3


def render_plan(plan: Plan, *, home: Path | None = None, now: datetime) -> RenderableType:
    """The plan, and where outputs will go if that is known. Nothing has been created when this is shown."""
    from rich.text import Text

    lines = facts()
    for name, what, style in _lines(plan, home, now):
        lines.add_row(name, Text(safe(what), style=style))
    return lines


def launch_question(plan: Plan, *, now: datetime) -> str:
    """What is asked after the plan, whose own lines may have scrolled off a small screen by then."""
    first, content = plan.attempts[0], plan.workload.content
    left, hourly = plan.lease.ends - now, first.best.price_usd_per_hour
    most = f"at most {money(cost_usd(most_usd_per_hour(plan.attempts), left))}"
    bound = most if _is_bounded(plan) else f"{money(cost_usd(hourly, left))} for a whole lease at that price"
    host = _host(first.best, first.market)
    uploads = f", uploading {_size(content)}" if content is not None and content.files else ""
    return safe(f"Launch {plan.run} on {host}, for {price(hourly)}, {bound}{uploads}?")


def _lines(plan: Plan, home: Path | None, now: datetime) -> list[tuple[str, str, str]]:
    first, work = plan.attempts[0], plan.workload
    pools = [(attempt, pool) for attempt in plan.attempts for pool in attempt.pools]
    lines = [
        ("run", plan.run, "bold"),
        ("job", plan.job, ""),
        ("command", shlex.join(work.command), ""),
        ("host", _pool(*pools[0]), "bold"),
        *(("", other, "dim") for other in _others(pools)),
        ("region", f"{first.region} ({plan.region_source}), cloud {plan.cloud}", ""),
        ("image", f"{first.image.name} ({first.image.image_id})", ""),
        ("disk", f"{first.image.volume_gib} GiB, encrypted, deleted with its host", ""),
        ("access", f"SSH from {plan.access.caller_cidr} and nowhere else", ""),
        ("uploads", _uploads(work), ""),
        *(("", line, "dim") for line in _left_out(work)),
        ("installs", ", ".join(work.requirements) or "nothing", ""),
        *(("", line, "dim" if work.requirements else "yellow") for line in _not_read(work)),
        ("downloads", _outputs(work, home), ""),
    ]
    if work.environment_names:
        lines.append(("variables", f"{', '.join(work.environment_names)} (values are not stored)", ""))
    return [*lines, *_end(plan, now)]


def _end(plan: Plan, now: datetime) -> list[tuple[str, str, str]]:
    return [
        *_cost(plan, plan.lease.ends - now),
        ("ends", f"{clock(plan.lease.ends)}: the host terminates itself then, whatever happens to this machine", ""),
        *_afterwards(plan.lease),
    ]


def _cost(plan: Plan, left: timedelta) -> list[tuple[str, str, str]]:
    """What a whole lease costs: a bound where each pool has one, else the price of now and how far it can rise."""
    first = money(cost_usd(plan.attempts[0].best.price_usd_per_hour, left))
    most = money(cost_usd(most_usd_per_hour(plan.attempts), left))
    lease = f"for a whole lease of {span(max(0.0, left.total_seconds()))}"
    if _is_bounded(plan):
        lower = f"; {first} at the first offer's price" if first != most else ""
        return [("costs", f"at most {most} {lease}, without disk and traffic{lower}", "bold")]
    higher = f"; {most} at the most expensive offer" if first != most else ""
    return [
        ("costs", f"{first} {lease} at the current price, without disk and traffic{higher}", "bold"),
        ("", "a spot price can rise, to the on-demand price at most; --max-price sets a lower limit", "dim"),
    ]


def _is_bounded(plan: Plan) -> bool:
    """Whether no host of the plan can cost more than the plan says."""
    return all(attempt.limit_usd_per_hour(pool) for attempt in plan.attempts for pool in attempt.pools)


def _afterwards(lease: Lease) -> list[tuple[str, str, str]]:
    """What ends the host before its lease does, and when outputs that are not home are lost."""
    after = f"{lease.idle_s / 60:g} min after training has ended"
    if lease.discard:
        return [("then", f"the host ends {after}; outputs not downloaded by then are lost", "yellow")]
    if lease.then_s is None:
        return [
            ("", "outputs not downloaded by then are lost", "yellow"),
            ("", f"sooner: {after} and all outputs are downloaded", ""),
        ]
    kept = f"outputs are kept until downloaded, or until {clock(lease.ends)} at the latest"
    return [("then", f"the host ends {after} and all outputs are downloaded; {kept}", "yellow")]


def _pool(attempt: Attempt, pool: Pool) -> str:
    return f"{_host(pool, attempt.market)}, {pool.zone}, {price(pool.price_usd_per_hour)}"


def _host(pool: Pool, market: Market) -> str:
    gpus = f"{pool.gpus}× " if pool.gpus > 1 else ""
    return f"{pool.instance_type} ({gpus}{pool.gpu}), {market}"


def _others(pools: Sequence[tuple[Attempt, Pool]]) -> list[str]:
    shown = [f"or {_pool(attempt, pool)}" for attempt, pool in pools[1 : 1 + _OTHERS_SHOWN]]
    more = len(pools) - 1 - _OTHERS_SHOWN
    if more <= 0:
        return shown
    most = max(pool.price_usd_per_hour for _, pool in pools)
    return [*shown, f"or {more} others, at most {price(most)}"]


def _uploads(work: Workload) -> str:
    what = ", ".join(u.source if u.name == "." else f"{u.source} as {u.name}" for u in work.uploads) or "nothing"
    if (content := work.content) is None:
        return what
    largest = f", the largest is {content.largest} ({amount(content.largest_bytes)})" if content.files > 1 else ""
    return f"{what}: {_size(content)}{largest}"


def _size(content: UploadSummary) -> str:
    return f"{content.files} file{'s' * (content.files != 1)}, {amount(content.bytes)}"


def _left_out(work: Workload) -> list[str]:
    """What stays behind, a line for each reason."""
    if work.content is None:
        return []
    return [f"not uploaded: {_names(one)} ({one.why}{_how_to_upload(one)})" for one in work.content.left_out]


def _not_read(work: Workload) -> list[str]:
    """What names packages that the host will not have."""
    if not work.unread:
        return []
    itself = ", or --requirement . for the project" if {"pyproject.toml", "setup.py"} & {*work.unread} else ""
    return [f"not read: {', '.join(work.unread)} (install with --requirement NAME{itself})"]


def _names(left_out: NotUploaded) -> str:
    more = left_out.count - len(left_out.names)
    return ", ".join(left_out.names) + (f" and {more} more" if more else "")


def _how_to_upload(left_out: NotUploaded) -> str:
    return "; upload it with --put" if left_out.why in (SECRET, DEFAULT, DOWNLOADED) else ""


def _outputs(work: Workload, home: Path | None) -> str:
    if work.outputs is None:
        what = f"everything the command writes (over {amount(MAX_SIZE)}: only checkpoints and outputs/)"
    else:
        what = ", ".join(work.outputs) or "nothing"
    less = f", except {', '.join(work.exclude)}" if work.exclude else ""
    return f"{what}{less}" + (f", into {home}" if home is not None else "")
