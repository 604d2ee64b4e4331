"""`gpuctl down`: outputs home, then everything of the run gone, and AWS asked again."""

from __future__ import annotations

import sys
from functools import partial

import click

from gpuctl.cli.options import (
    agreed,
    chosen_cloud,
    cloud_options,
    complete_run,
    json_option,
    now,
    print_json,
    profile_of,
    yes_option,
)
from gpuctl.core.errors import GpuctlError, Interrupted, UsageError
from gpuctl.core.text import safe
from gpuctl.state.places import places


@click.command("down")
@cloud_options
@click.argument("runs", nargs=-1, metavar="RUN...", shell_complete=complete_run)
@click.option("--all", "everything", is_flag=True, help="Every run of your own in the account.")
@click.option("--discard", is_flag=True, help="Do not bring outputs home; what is not home is lost.")
@yes_option
@json_option
def command(
    runs: tuple[str, ...],
    everything: bool,
    discard: bool,
    yes: bool,
    as_json: bool,
    cloud: str | None,
    region: str | None,
) -> None:
    """Bring home what is not home, remove everything that is tagged with the run, and verify that it is gone."""
    from gpuctl.cli.pull import tell
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.down import down, run_by_name, runs_of_mine

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
    with Phases() as phases:
        went = down(opened, discard=discard, now=now(), reporter=phases)
    for brought in went.brought:
        tell(brought)
    if as_json:
        print_json(went.to_json())
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
