"""`gpuctl tail`: a run's log as it comes."""

from __future__ import annotations

import click

from gpuctl.cli.following import follow_log, raise_if_failed, show_last
from gpuctl.cli.options import cloud_options, run_argument
from gpuctl.core.endings import ending


@click.command("tail")
@cloud_options
@run_argument
@click.option("-n", "lines", type=click.IntRange(0), default=10, show_default=True, help="Last lines first.")
@click.option("--follow/--no-follow", default=True, help="Go on to the end of the training.")
def command(run: str, lines: int, follow: bool, cloud: str | None, region: str | None) -> None:
    """The log, losses marked. Ctrl-C only stops looking."""
    if not follow:
        show_last(run, cloud, region, lines=lines)
        return
    state = follow_log(run, cloud, region, lines=lines)
    if state is not None:
        click.echo(f"{run} {ending(state)}", err=True)
        raise_if_failed(run, state)
