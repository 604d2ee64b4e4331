"""The answers of `ls`, `jobs`, `offers` and `status` for people, made of the same values that `--json` prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gpuctl.core.answers import JobDetails, JobRow, LastLoss, OfferRow, ResourceRow, RunStatus, RunSummary
from gpuctl.core.losses.points import Split
from gpuctl.core.text import safe
from gpuctl.ui.words import clock, left, loss, money, price

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STATE_STYLES = {
    "starting": "yellow",
    "running": "green",
    "succeeded": "bold green",
    "failed": "bold red",
    "stopped": "yellow",
    "interrupted": "bold magenta",
    "lost": "bold red",
    "down": "dim",
    "host up": "green",
    "host stopped": "yellow",
}
SPLIT_STYLES = {"train": "cyan", "val": "yellow", "test": "magenta"}


def runs_table(rows: Sequence[RunSummary], *, now: datetime | None = None) -> RenderableType:
    """`ls`: one line per run."""
    from rich.console import Group

    if not rows:
        return _text("no runs", "dim")
    now = now or datetime.now(timezone.utc)
    table = _table("run", "state", "host", "price", "so far", "host ends")
    reasons: list[RenderableType] = []
    for row in rows:
        hosts = [f"{h.instance_type} {h.market} {h.zone}" for h in row.hosts if h.state != "terminated"]
        table.add_row(
            _text(row.run, "bold"),
            _state(row.state).append_text(_seen(row, now)),
            _text(", ".join(_counted(hosts)) or "-"),
            _text(price(row.price_usd_per_hour)),
            _text(money(row.cost_usd)),
            _text(left(_host_ends(row), now) if hosts else "-"),
        )
        if row.why:
            reasons.append(_text(f"{row.run} {row.state}: {row.why}", STATE_STYLES.get(row.state, "")))
    return Group(table, *reasons)


def _host_ends(row: RunSummary) -> datetime | None:
    """The end of its lease, or sooner if the host has said so."""
    ends = [at for at in (row.lease_ends, row.power_off_at) if at is not None]
    return min(ends, default=None)


def jobs_table(rows: Sequence[JobRow]) -> RenderableType:
    """`jobs`: one line per job."""
    if not rows:
        return _text("no packaged jobs", "dim")
    table = _table("job", "description", "presets")
    for row in rows:
        table.add_row(_text(row.name, "bold"), _text(row.summary), _text(", ".join(row.presets), "dim"))
    return table


def job_view(row: JobDetails) -> RenderableType:
    """`jobs NAME`: one job in full."""
    from rich.console import Group

    lines = facts()
    lines.add_row("job", _text(row.name, "bold"))
    lines.add_row("description", _text(row.summary))
    lines.add_row("command", _text(row.command))
    lines.add_row("presets", _text(", ".join(row.presets) or "-"))
    lines.add_row("Python", _text(row.requires_python or "any"))
    lines.add_row("installs", _text(", ".join(row.requirements) or "nothing"))
    lines.add_row("files", _text(", ".join(file.path for file in row.files)))
    options = _table("option", "description", "default")
    for option in row.options:
        options.add_row(_text(option.option, "bold"), _text(option.help), _text(_defaults(option.defaults)))
    words = f"gpuctl launch {row.name} -- --preset {row.presets[0]}" if row.presets else ""
    shown: list[RenderableType] = [lines]
    if row.options:
        shown += [_text(""), _text(f"options go after --: {words}", "dim"), options]
    return Group(*shown)


def _defaults(values: Mapping[str, Any]) -> str:
    """One value where the presets agree, else each preset's."""
    different = list(dict.fromkeys(map(repr, values.values())))
    if len(different) > 1:
        return ", ".join(f"{preset} {value}" for preset, value in values.items())
    return next((str(value) if str(value).strip() else repr(value) for value in values.values()), "")


def offers_table(rows: Sequence[OfferRow]) -> RenderableType:
    """`offers`: one line per offer, in the order given."""
    if not rows:
        return _text("no offers", "dim")
    table = _table("type", "GPU", "market", "zone", "price")
    for row in rows:
        table.add_row(
            _text(row.instance_type, "bold"),
            _text(_gpu(row.gpu, row.gpus)),
            _text(row.market, "green" if row.market == "spot" else ""),
            _text(row.zone),
            _text(price(row.price_usd_per_hour)),
        )
    return table


def status_view(row: RunStatus, *, now: datetime | None = None) -> RenderableType:
    """`status`: one run in full."""
    now = now or datetime.now(timezone.utc)
    ends, off = row.lease_ends, row.power_off_at
    lines = facts()
    state = _state(row.state).append_text(_seen(row, now))
    if row.exit_code is not None:
        state.append(f", exit code {row.exit_code}", "default")
    if row.why:
        state.append(f": {safe(row.why)}", "default")
    lines.add_row("run", _text(row.run, "bold"))
    lines.add_row("state", state)
    if row.problem:
        lines.add_row("", _text(row.problem, "red"))
    lines.add_row("job", _text(row.job))
    for host in row.hosts:
        where = f"{host.instance_type} {host.market} in {host.zone}, {host.instance_id}, {host.state}"
        lines.add_row("host", _text(where))
    lines.add_row("cost", _text(f"{money(row.cost_usd)} so far, {price(row.price_usd_per_hour)}"))
    lines.add_row("lease", _text("-" if ends is None else f"ends {left(ends, now)}, {clock(ends)}"))
    if off is not None:
        lines.add_row("host ends", _text(f"{left(off, now)}, {clock(off)}"))
    lines.add_row("losses", _losses(row.losses))
    lines.add_row("in AWS", _text(_resources(row.resources)))
    lines.add_row("ssh", _text(f"ssh -F {shlex.quote(row.ssh_config)} {row.run}" if row.ssh_config else "-"))
    return lines


def facts() -> Table:
    """A table of names and what they are, to which rows are added."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        right = column in ("price", "so far")
        whole = i == 0 or column in ("state", "price", "so far")
        table.add_column(
            column,
            overflow="fold",
            no_wrap=whole,
            min_width=None if whole else 10,
            justify="right" if right else "left",
        )
    return table


def _text(value: object, style: str = "") -> Text:
    from rich.text import Text

    return Text("-" if value is None else safe(str(value)), style=style)


def _state(state: str) -> Text:
    return _text(state, STATE_STYLES.get(state, ""))


def _seen(row: RunSummary, now: datetime) -> Text:
    """For a host that does not answer: what it last said, and when."""
    at = row.seen
    if row.state != "lost" or at is None:
        return _text("")
    when = f"{at.astimezone():%H:%M}" if abs((now - at).total_seconds()) < 12 * 3600 else clock(at)
    return _text(f", last seen at {when}: {row.seen_state}")


def _gpu(name: str, count: int) -> str:
    return name if count == 1 else f"{count}× {name}"


def _counted(names: Iterable[str]) -> list[str]:
    listed = list(names)
    return [n if listed.count(n) == 1 else f"{listed.count(n)}× {n}" for n in dict.fromkeys(listed)]


def _losses(losses: Mapping[Split, LastLoss] | None) -> Text:
    if not losses:
        return _text("none seen yet" if losses is not None else "not known here", "dim")
    text = _text("")
    for split, last in losses.items():
        text.append(f"{split} ", "dim").append(loss(last.loss, last.nonfinite or "not finite"), SPLIT_STYLES[split])
        text.append(f" at step {last.step}   " if last.step is not None else "   ", "dim")
    text.rstrip()
    return text


def _resources(resources: Iterable[ResourceRow]) -> str:
    return ", ".join(_counted(one.kind for one in resources)) or "nothing"
