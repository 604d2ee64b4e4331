"""A plan for people: what a launch will do, what it costs, when it ends, when outputs are lost."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gpuctl.core.plan import IDLE_AFTER_HOME_S
from gpuctl.core.text import safe
from gpuctl.ui.tables import facts
from gpuctl.ui.words import clock, moment, money, price, span

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_plan(plan: Mapping[str, Any], *, now: datetime | None = None) -> RenderableType:
    """The plan as `Plan.to_json` has it. Nothing has been created when this is shown."""
    from rich.text import Text

    lines = facts()
    for name, what, style in _lines(plan, now or datetime.now(timezone.utc)):
        lines.add_row(name, Text(safe(what), style=style))
    return lines


def _lines(plan: Mapping[str, Any], now: datetime) -> list[tuple[str, str, str]]:
    best, ends = plan["choices"][0], moment(plan["lease_ends"])
    lines = [
        ("run", plan["run"], "bold"),
        ("job", plan["job"], ""),
        ("command", shlex.join(plan["command"]), ""),
        ("host", _choice(best), "bold"),
        *(("", other, "dim") for other in _others(plan["choices"])),
        ("region", f"{plan['region']} ({plan['region_source']}), cloud {plan['cloud']}", ""),
        ("image", f"{plan['image_name']} ({plan['image_id']})", ""),
        ("disk", f"{plan['volume_gib']} GiB, encrypted, deleted with its host", ""),
        ("access", f"SSH from {plan['caller_cidr']} and nowhere else", ""),
        ("goes up", _uploads(plan), ""),
        ("installs", ", ".join(plan["requirements"]) or "nothing", ""),
        ("comes home", _outputs(plan), ""),
    ]
    if plan["environment_names"]:
        lines.append(("variables", f"{', '.join(plan['environment_names'])} (values are not stored)", ""))
    return lines if ends is None else lines + _end(plan, best, ends, now)


def _end(plan: Mapping[str, Any], best: Mapping[str, Any], ends: datetime, now: datetime) -> list[tuple[str, str, str]]:
    seconds = max(0.0, (ends - now).total_seconds())
    most = max(c["price_usd_per_hour"] for c in plan["choices"])
    cost = f"at most {money(seconds / 3600 * most)}, a whole lease of {span(seconds)}"
    if most > best["price_usd_per_hour"]:
        cost += f" at the dearest offer above; {money(seconds / 3600 * best['price_usd_per_hour'])} at the first"
    return [
        ("costs", cost, "bold"),
        ("ends", f"{clock(ends)}: the host ends itself then, whatever happens to this machine", ""),
        *_afterwards(plan, ends),
    ]


def _afterwards(plan: Mapping[str, Any], ends: datetime) -> list[tuple[str, str, str]]:
    """What ends the host before its lease does, and when what is not home is lost."""
    then_s, discard = plan.get("then_s"), plan.get("discard")
    after = f"{(IDLE_AFTER_HOME_S if then_s is None else then_s) / 60:g} min after training has ended"
    if discard:
        return [("then", f"the host ends {after}; outputs not pulled by then are lost", "yellow")]
    if then_s is None:
        return [
            ("", "outputs that are not home by then are lost", "yellow"),
            ("", f"sooner: {after} and all outputs are home", ""),
        ]
    kept = f"outputs are kept until pulled, at the latest until {clock(ends)}"
    return [("then", f"the host ends {after} and all outputs are home; {kept}", "yellow")]


def _choice(choice: Mapping[str, Any]) -> str:
    gpus = f"{choice['gpus']}× " if choice["gpus"] > 1 else ""
    return (
        f"{choice['instance_type']} ({gpus}{choice['gpu']}), {choice['market']}, {choice['zone']}, "
        f"{price(choice['price_usd_per_hour'])}"
    )


def _others(choices: list[Mapping[str, Any]], most: int = 3) -> list[str]:
    shown = [f"else {_choice(choice)}" for choice in choices[1 : 1 + most]]
    more = len(choices) - 1 - most
    return (
        [*shown, f"else {more} more, the dearest {price(max(c['price_usd_per_hour'] for c in choices))}"]
        if more > 0
        else shown
    )


def _uploads(plan: Mapping[str, Any]) -> str:
    return (
        ", ".join(u["source"] if u["name"] == "." else f"{u['source']} as {u['name']}" for u in plan["uploads"])
        or "nothing"
    )


def _outputs(plan: Mapping[str, Any]) -> str:
    if plan["outputs"] is None:
        return "outputs/ where there is one, else what the command writes"
    return ", ".join(plan["outputs"]) or "nothing"
