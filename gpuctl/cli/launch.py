"""`gpuctl launch`: a job on a GPU of its own."""

from __future__ import annotations

import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gpuctl.cli.job_command import JobCommand
from gpuctl.cli.options import (
    DEST,
    agreed,
    check_can_ask,
    cloud_options,
    json_option,
    max_size_option,
    now,
    open_run_of,
    print_json,
    profile_of,
    requirement_option,
    yes_option,
)
from gpuctl.core.endings import begun
from gpuctl.core.errors import Interrupted, UsageError
from gpuctl.core.outputs import Wish

if TYPE_CHECKING:
    from gpuctl.core.answers import LaunchAnswer
    from gpuctl.core.plan import Plan
    from gpuctl.core.profile import Profile
    from gpuctl.state.paths import Paths
    from gpuctl.workflows.hosts import RunHandle
    from gpuctl.workflows.launch import Launched
    from gpuctl.workflows.planning import Asked, Planned, Request


def _amount(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Decimal | None:
    """A number as a person writes it, exact and above 0."""
    if value is None:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise click.BadParameter(f"{value!r} is not a number") from None
    if not amount.is_finite() or amount <= 0:
        raise click.BadParameter(f"{value} is not more than 0")
    return amount


def _then(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """`down` or `down:MINUTES`, in seconds."""
    from gpuctl.core.lease import THEN_DOWN_S

    if value is None:
        return None
    word, colon, minutes = value.partition(":")
    if word != "down":
        raise click.BadParameter(f"{value!r} is neither down nor down:MINUTES")
    if not colon:
        return THEN_DOWN_S
    amount = _amount(_ctx, _param, minutes)
    assert amount is not None
    return max(1, int(min(_MOST_MINUTES, amount) * 60))


_MOST_MINUTES = Decimal(1_000_000)
ALIVE_S = 2.0
"""For how long training must have lived before a launch that returns calls it started."""
LAST_LINES = 10
"""How many log lines to show if the command failed before a detached launch returned."""


@click.command("launch", cls=JobCommand)
@cloud_options
@click.argument("job")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
@click.option(
    "--gpu",
    metavar="NAME[:COUNT]",
    help="GPU model and count, for example a10g or a100-80gb:8 (default: the cheapest with 16 GB and bf16).",
)
@click.option("--instance-type", metavar="TYPE", help="EC2 instance type, instead of --gpu.")
@click.option("--max-price", callback=_amount, metavar="USD", help="Maximum price in $/hour.")
@click.option(
    "--budget",
    callback=_amount,
    metavar="USD",
    help="Terminate the host before it has cost this much at the current price, or at --max-price.",
)
@click.option(
    "--max-hours", callback=_amount, metavar="HOURS", help="Terminate the host after this many hours (default: 24)."
)
@click.option(
    "--on-demand",
    type=click.Choice(["never", "fallback", "only"]),
    default="never",
    show_default=True,
    help="When to use on-demand instances instead of spot.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="K[=V]",
    help="Environment variable for the command; K alone takes its value from this shell. Repeatable.",
)
@click.option(
    "--put", multiple=True, metavar="FILE[:NAME]", help="Copy a file or folder into the workspace. Repeatable."
)
@requirement_option
@click.option("--name", metavar="RUN", help="Name of the run (default: made from the job's name).")
@click.option("--dry-run", is_flag=True, help="Show the plan and exit.")
@click.option("-d", "--detach", is_flag=True, help="Return once training has started.")
@click.option("--pull", "pull_to", type=DEST, metavar="DEST", help="Download outputs to DEST when training has ended.")
@max_size_option
@click.option(
    "--down",
    "down_after",
    is_flag=True,
    help="After training, download the outputs and delete everything that belongs to the run.",
)
@click.option(
    "--then",
    "then_s",
    callback=_then,
    metavar="down[:MINUTES]",
    help="Have the host terminate itself MINUTES (default: 15) after training has ended and outputs are downloaded.",
)
@click.option("--discard", is_flag=True, help="With --then down: do not wait for the outputs to be downloaded.")
@yes_option
@json_option
def command(
    job: str,
    words: tuple[str, ...],
    cloud: str | None,
    dry_run: bool,
    detach: bool,
    pull_to: Path | None,
    max_size: int | None,
    down_after: bool,
    yes: bool,
    as_json: bool,
    **asked: Any,
) -> int:
    """Launch JOB on a GPU host and follow its training.

    Before training starts, Ctrl-C deletes everything that was created. After that, it only stops following the log.

    JOB is the name of a packaged job (see `gpuctl jobs`) or a folder. Arguments after -- that start with a dash are
    added to the job's command; any others replace it.
    """
    from gpuctl.cli.following import detached
    from gpuctl.workflows.planning import read_request

    _check_end(returns=detach or as_json, comes_home=bool(pull_to or down_after))
    _check_then(asked["then_s"], discard=asked["discard"], down_after=down_after)
    request = read_request(_request(job, words, asked))
    if not dry_run:
        check_can_ask("launch", yes=yes)
    profile, here = profile_of(cloud)
    planned = _plan(request, profile, here)
    plan = planned.plan
    home = _home(plan, pull_to) if pull_to or down_after else None
    if dry_run:
        return _show(plan, home, as_json=as_json)
    _agree(plan, home, yes=yes)
    try:
        launched = _launch(planned, profile, here, alive_s=ALIVE_S if detach or as_json else 0.0)
        if as_json:
            print_json(_answer(launched))
        if detach or as_json:
            return _say_what_next(launched, open_run_of(plan.run, cloud, None), to_stderr=as_json)
        return _follow(plan.run, cloud, home, down_after=down_after, wish=Wish(max_size))
    except KeyboardInterrupt:
        return detached(plan.run)


def _plan(request: Asked, profile: Profile, here: Paths) -> Planned:
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.planning import plan_launch

    with Phases() as phases:
        phases.phase("plan", "credentials, prices, image, your address")
        return plan_launch(request, profile=profile, paths=here, now=now())


def _home(plan: Plan, pull_to: Path | None) -> Path:
    """Where the outputs will go."""
    from gpuctl.workflows.pull import free_place

    return free_place(pull_to or Path(plan.run), plan.run)


def _show(plan: Plan, home: Path | None, *, as_json: bool) -> int:
    """The plan as the answer to `--dry-run`; the exit code."""
    from gpuctl.ui.console import show
    from gpuctl.ui.plan import render_plan

    print_json(_plan_row(plan, home)) if as_json else show(render_plan(plan, home=home, now=now()))
    return 0


def _agree(plan: Plan, home: Path | None, *, yes: bool) -> None:
    """Show the plan and ask. Raises Interrupted if the answer is no."""
    from gpuctl.ui.console import tell
    from gpuctl.ui.plan import launch_question, render_plan

    tell(render_plan(plan, home=home, now=now()))
    if not agreed(launch_question(plan, now=now()), yes=yes):
        raise Interrupted("not launched", "nothing was created")


def _launch(planned: Planned, profile: Profile, here: Paths, *, alive_s: float) -> Launched:
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.launch import launch

    with Phases() as phases:
        return launch(planned, profile=profile, paths=here, reporter=phases, alive_s=alive_s)


def _check_end(*, returns: bool, comes_home: bool) -> None:
    if returns and comes_home:
        raise UsageError(
            "--pull and --down run after training, but -d and --json return before it ends",
            "choose one, or have the host terminate itself with --then down",
        )
    max_size_from = click.get_current_context().get_parameter_source("max_size")
    if max_size_from is not ParameterSource.DEFAULT and not comes_home:
        raise UsageError("--max-size limits what is downloaded at the end, but nothing will be", "add --pull or --down")


def _check_then(then_s: int | None, *, discard: bool, down_after: bool) -> None:
    if then_s is not None and down_after:
        raise UsageError(
            "this laptop does --down, but the host does --then down", "use only one: --then down needs no laptop"
        )
    if discard and then_s is None:
        raise UsageError("--discard has no effect without --then down", "add --then down")


def _request(job: str, words: tuple[str, ...], asked: dict[str, Any]) -> Request:
    from gpuctl.workflows.planning import Request

    return Request(
        job=job,
        words=words,
        gpu=asked["gpu"],
        instance_type=asked["instance_type"],
        region=asked["region"],
        max_price_usd_per_hour=asked["max_price"],
        budget_usd=asked["budget"],
        max_hours=asked["max_hours"],
        on_demand=asked["on_demand"],
        env=asked["env"],
        put=asked["put"],
        requirement=asked["requirement"],
        name=asked["name"],
        then_s=asked["then_s"],
        discard=asked["discard"],
    )


def _plan_row(plan: Plan, home: Path | None) -> dict[str, Any]:
    """The plan as `--dry-run --json` has it."""
    from gpuctl.core.codec import to_plain

    return {**to_plain(plan), **({"home": str(home)} if home is not None else {})}


def _answer(launched: Launched) -> LaunchAnswer:
    from gpuctl.core.answers import LaunchAnswer
    from gpuctl.workflows.runs import host_row

    hosts = tuple(host_row(instance) for instance in launched.instances)
    return LaunchAnswer(launched.plan.run, launched.plan.cloud, launched.record.current.region, hosts)


def _say_what_next(launched: Launched, opened: RunHandle, *, to_stderr: bool) -> int:
    """Show the commands to type next and when the host ends. If the command failed at once, say so."""
    from gpuctl.cli.following import raise_if_failed, show_last

    run, state = launched.plan.run, launched.state
    ends = launched.plan.lease.ends.astimezone()
    lines = [
        f"{run} {begun(state)}; its host ends at {ends:%H:%M on %a %d %b}; outputs not downloaded by then are lost"
    ]
    lines += _then_line(launched.plan)
    lines += [f"  gpuctl {verb} {run}" for verb in ("tail", "watch", "attach", "pull", "down")]
    if state.training == "failed":
        show_last(opened, lines=LAST_LINES, to_stderr=True)
    click.echo("\n".join(lines), err=to_stderr)
    raise_if_failed(opened, state)
    return 0


def _then_line(plan: Plan) -> list[str]:
    lease = plan.lease
    if lease.then_s is None:
        return []
    what = "training has ended" if lease.discard else "training has ended and all outputs are downloaded"
    return [
        f"or sooner, {lease.then_s / 60:g} min after {what}; its security group and launch template cost nothing "
        f"and stay until `gpuctl down {plan.run}` deletes them"
    ]


def _follow(run: str, cloud: str | None, pull_to: Path | None, *, down_after: bool, wish: Wish) -> int:
    """Follow to the end of training, then download and take down if asked to; the exit code.

    A reader of the log that goes away (`| head`) ends only the showing if there is something to do afterwards.
    """
    from gpuctl.cli.following import after_the_end, detached, follow_log, still_there
    from gpuctl.ui.console import unfailing

    state = None
    if pull_to is not None or down_after:
        sys.stdout = unfailing(sys.stdout)
    try:
        state = follow_log(open_run_of(run, cloud, None), lines=None)
        # Opened anew: hours later the credentials on the disk may be others.
        return after_the_end(open_run_of(run, cloud, None), state, pull_to=pull_to, down_after=down_after, wish=wish)
    except BrokenPipeError:
        return detached(run)
    except KeyboardInterrupt as interrupt:
        if state is None:
            return detached(run)
        raise still_there(run) from interrupt
