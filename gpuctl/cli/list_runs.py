"""`gpuctl ls`: the runs in the account, found by their tags; a host that can be reached reports its run's state."""

from __future__ import annotations

from functools import partial

import click

from gpuctl.cli.options import check_all_told, cloud_options, json_option, now, print_json, profile_of, tell_silent


@click.command("ls")
@cloud_options
@json_option
def command(as_json: bool, cloud: str | None, region: str | None) -> None:
    """List every run that has a host in a region, whichever laptop launched it.

    Without --region, the usual region is asked, and each one in which a run of this laptop may still be up.
    Without a run's key, only its host's state is known (`host up`). For a host that does not answer (`lost`), the last
    known state is shown.
    """
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import runs_table
    from gpuctl.workflows.runs import list_runs

    profile, here = profile_of(cloud)
    answer = list_runs(profile, paths=here, region=region, now=now(), tell=partial(click.echo, err=True))
    if as_json:
        print_json(answer)
    elif answer.runs:
        show(runs_table(answer.runs))
    else:
        click.echo(f"no runs in {', '.join(answer.regions)}; `gpuctl launch JOB` starts one", err=True)
    tell_silent(answer.silent)
    check_all_told(answer.silent, "gpuctl ls")
