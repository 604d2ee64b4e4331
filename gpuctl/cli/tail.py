"""`gpuctl tail`: a run's log as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpuctl.cli.following import follow_log, raise_if_failed, show_last
from gpuctl.cli.options import run_command
from gpuctl.core.endings import ending

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


@click.command("tail")
@run_command
@click.option(
    "-n", "lines", type=click.IntRange(0), default=10, show_default=True, help="Number of past lines to show first."
)
@click.option("--follow/--no-follow", default=True, help="Keep following until training ends.")
def command(run: RunHandle, lines: int, follow: bool) -> None:
    """Follow the log, with losses highlighted. Ctrl-C only stops following.

    The exit code is 3 if training failed, and 1 if the log of one of several hosts is incomplete.
    """
    if not follow:
        show_last(run, lines=lines)
        return
    state = follow_log(run, lines=lines)
    if state is not None:
        click.echo(f"{run.name} {ending(state)}", err=True)
        raise_if_failed(run, state)
