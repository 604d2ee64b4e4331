"""`gpuctl ls`: the runs in the account, found by their tags; a host that can be reached reports its run's state."""

from __future__ import annotations

from functools import partial

import click

from gpuctl.cli.options import cloud_options, json_option, now, print_json, profile_of


@click.command("ls")
@cloud_options
@json_option
def command(as_json: bool, cloud: str | None, region: str | None) -> None:
    """List every run that has a host in the account, whichever laptop launched it.

    Without a run's key, only its host's state is known (`host up`). For a host that does not answer (`lost`), the last
    known state is shown.
    """
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import runs_table
    from gpuctl.workflows.runs import list_runs

    profile, here = profile_of(cloud)
    runs = list_runs(profile, paths=here, region=region, now=now(), tell=partial(click.echo, err=True))
    if as_json:
        print_json({"runs": runs})
    elif runs:
        show(runs_table(runs))
    else:
        click.echo("no runs; `gpuctl launch JOB` starts one", err=True)
