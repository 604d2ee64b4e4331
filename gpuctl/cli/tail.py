"""`gpuctl tail`: a run's log as it comes."""

from __future__ import annotations

import click

from gpuctl.cli.following import follow_log, raise_if_failed, show_last
from gpuctl.cli.options import cloud_options, run_argument
from gpuctl.core.endings import ending


@click.command("tail")
@cloud_options
@run_argument
@click.option(
    "-n", "lines", type=click.IntRange(0), default=10, show_default=True, help="Number of past lines to show first."
)
@click.option("--follow/--no-follow", default=True, help="Keep following until training ends.")
def command(run: str, lines: int, follow: bool, cloud: str | None, region: str | None) -> None:
    """Follow the log, with losses highlighted. Ctrl-C only stops following."""
    if not follow:
        show_last(run, cloud, region, lines=lines)
        return
    state = follow_log(run, cloud, region, lines=lines)
    if state is not None:
        click.echo(f"{run} {ending(state)}", err=True)
        raise_if_failed(run, state)
