"""`gpuctl down`: outputs home, then everything of the run gone, and AWS asked again."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import (
    agreed,
    chosen_cloud,
    cloud_options,
    complete_run,
    everything_option,
    json_option,
    max_size_option,
    now,
    print_json,
    profile_of,
    yes_option,
)
from gpuctl.core.errors import GpuctlError, Interrupted, NotHome, UsageError
from gpuctl.core.outputs import Wish
from gpuctl.core.text import safe
from gpuctl.state.places import places

if TYPE_CHECKING:
    from gpuctl.workflows.down import DownResult
    from gpuctl.workflows.hosts import RunHandle


@click.command("down")
@cloud_options
@click.argument("runs", nargs=-1, metavar="RUN...", shell_complete=complete_run)
@click.option("--all", "everything", is_flag=True, help="Take down all of your own runs in the account.")
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
    from gpuctl.cli.pull import tell
    from gpuctl.workflows.down import run_by_name, runs_of_mine

    if bool(runs) == everything:
        raise UsageError("down wants either runs by name or --all", "`gpuctl ls` shows the runs")
    if everything:
        if not yes and not sys.stdin.isatty():
            raise UsageError("down --all cannot ask here", "say -y")
        profile, here = profile_of(cloud)
        opened = runs_of_mine(profile, places=here, region=region)
    else:
        say = partial(click.echo, err=True)
        chosen, here = chosen_cloud(cloud), places()
        opened = tuple(
            run_by_name(name, places=here, cloud=chosen, region=region, tell=say) for name in dict.fromkeys(runs)
        )
    names = ", ".join(run.name for run in opened)
    if opened and not agreed(f"Take down {names}?", yes=yes):
        raise Interrupted(f"{names} not taken down", "nothing was removed")
    went = _go_down(opened, discard=discard, wish=Wish(max_size, all_written), yes=yes)
    for brought in went.brought:
        tell(brought)
    if as_json:
        print_json(went.answer)
    else:
        for resource in went.removed:
            click.echo(f"removed {resource.kind} {resource.id}")
        gone = ", ".join(run.name for run in opened if run.name not in dict(went.failed)) or "no run"
        click.echo(f"{gone}: nothing is left" if not went.left else f"{len(went.left)} things are left")
    for run, error in went.failed:
        click.echo(safe(f"{run} is still there: {error}"), err=True)
    if went.failed:
        raise GpuctlError(f"{len(went.failed)} of {len(opened)} runs could not be taken down, see above")
    if went.left:
        left = ", ".join(f"{r.kind} {r.id}" for r in went.left)
        raise GpuctlError(f"AWS still tells of {left}", "run `gpuctl down` again in a minute")


def _go_down(opened: tuple[RunHandle, ...], *, discard: bool, wish: Wish, yes: bool) -> DownResult:
    """Take runs down; where one alone would lose what is not home, whoever sits at the terminal may say so."""
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.down import down

    try:
        with Phases() as phases:
            return down(opened, discard=discard, now=now(), reporter=phases, wish=wish)
    except NotHome as left:
        if yes or len(opened) != 1 or not sys.stdin.isatty():
            raise
        click.echo(safe(left.message), err=True)
        if not click.confirm("Lose it?", default=False, err=True):
            raise
    with Phases() as phases:
        return down(opened, discard=True, now=now(), reporter=phases)
