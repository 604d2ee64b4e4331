"""`gpuctl down`: download the outputs, delete everything tagged with the run, and check with AWS."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import (
    agreed,
    check_all_told,
    check_can_ask,
    chosen_cloud,
    cloud_options,
    complete_run,
    everything_option,
    json_option,
    max_size_option,
    now,
    print_json,
    profile_of,
    tell_silent,
    yes_option,
)
from gpuctl.core.errors import GpuctlError, Interrupted, LeftBehind, NotFound, NotHome, UsageError
from gpuctl.core.outputs import Wish
from gpuctl.core.text import safe
from gpuctl.state.paths import paths

if TYPE_CHECKING:
    from gpuctl.core.answers import DownAnswer
    from gpuctl.workflows.down import DownResult, OwnRuns
    from gpuctl.workflows.hosts import RunHandle


@click.command("down")
@cloud_options
@click.argument("runs", nargs=-1, metavar="RUN...", shell_complete=complete_run)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Take down all of your own runs in the region, and in those where this laptop has runs.",
)
@click.option("--discard", is_flag=True, help="Delete without downloading the outputs.")
@max_size_option
@everything_option
@yes_option
@json_option
def command(
    runs: tuple[str, ...],
    everything: bool,
    discard: bool,
    max_size: int | None,
    all_written: bool,
    yes: bool,
    as_json: bool,
    cloud: str | None,
    region: str | None,
) -> None:
    """Download what has not been downloaded yet, delete everything tagged with the run, and check that it is gone.

    If something cannot be downloaded, it is listed and nothing is deleted. With --discard everything is deleted anyway.
    """
    from gpuctl.workflows.down import DownResult

    if bool(runs) == everything:
        raise UsageError("down needs either the names of runs or --all", "`gpuctl ls` shows the runs")
    check_can_ask("down", yes=yes)
    own = _opened(runs, cloud, region)
    opened = own.runs
    tell_silent(own.silent)
    names = ", ".join(run.name for run in opened)
    if opened and not agreed(f"Take down {names}?", yes=yes):
        raise Interrupted(f"{names} not taken down", "nothing was removed")
    try:
        went = _go_down(opened, discard=discard, wish=Wish(max_size, all_written), yes=yes)
    except KeyboardInterrupt as interrupt:
        again = " ".join(run.name for run in opened)
        raise LeftBehind(
            f"interrupted; {names} may still exist and cost money", f"`gpuctl down {again}` continues"
        ) from interrupt
    except GpuctlError as error:
        if as_json:
            failed = tuple((run.name, error) for run in opened)
            print_json(_answer(DownResult((), (), (), failed), own))
        raise
    _report(went, own, as_json=as_json)
    check_all_told(own.silent, "gpuctl down --all")


def _opened(runs: tuple[str, ...], cloud: str | None, region: str | None) -> OwnRuns:
    """The runs of these names; without any, all of the caller's own."""
    from gpuctl.workflows.down import OwnRuns, run_by_name, runs_of_mine

    if not runs:
        profile, here = profile_of(cloud)
        return runs_of_mine(profile, paths=here, region=region)
    say = partial(click.echo, err=True)
    chosen, here = chosen_cloud(cloud), paths()
    names = dict.fromkeys(runs)
    return OwnRuns(tuple(run_by_name(name, paths=here, cloud=chosen, region=region, tell=say) for name in names))


def _answer(went: DownResult, own: OwnRuns) -> DownAnswer:
    return replace(went.answer, regions=own.regions, silent=own.silent)


def _report(went: DownResult, own: OwnRuns, *, as_json: bool) -> None:
    """Say what came home, what went and what did not. Raises GpuctlError if something is left."""
    from gpuctl.cli.pull import tell

    for brought in went.brought:
        tell(brought)
    if as_json:
        print_json(_answer(went, own))
    else:
        for resource in went.removed:
            click.echo(f"removed {resource.kind} {resource.id}")
        gone = ", ".join(run.name for run in own.runs if run.name not in dict(went.failed))
        if went.left:
            click.echo(f"resources left: {len(went.left)}")
        elif gone or not own.runs:
            where = f" in {', '.join(own.regions)}" if own.regions else ""
            click.echo(f"{gone}: nothing is left{where}" if gone else f"no runs of yours{where}")
    for run, error in went.failed:
        unknown = isinstance(error, NotFound)
        click.echo(safe(str(error) if unknown else f"{run} is not down: {error}"), err=True)
    if went.failed:
        raise GpuctlError(f"{len(went.failed)} of {len(own.runs)} runs could not be taken down, see above")
    if went.left:
        left = ", ".join(f"{r.kind} {r.id}" for r in went.left)
        raise GpuctlError(f"AWS still lists {left}", "run `gpuctl down` again in a minute")


def _go_down(opened: tuple[RunHandle, ...], *, discard: bool, wish: Wish, yes: bool) -> DownResult:
    """Take runs down; if a single run would lose outputs, whoever is at the terminal may agree to that."""
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.down import down

    try:
        with Phases() as phases:
            return down(opened, discard=discard, now=now(), reporter=phases, wish=wish)
    except NotHome as left:
        if yes or len(opened) != 1:
            raise
        click.echo(safe(left.message), err=True)
        if not agreed("Delete the run anyway?", yes=yes, default=False):
            raise
    with Phases() as phases:
        return down(opened, discard=True, now=now(), reporter=phases)
