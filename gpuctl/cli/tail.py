"""`gpuctl tail`: a run's log as it comes."""

from __future__ import annotations

import click

from gpuctl.cli.following import follow_log
from gpuctl.cli.options import cloud_options, open_run_of, run_argument
from gpuctl.core.errors import HostError, TrainingFailed


@click.command("tail")
@cloud_options
@run_argument
@click.option("-n", "lines", type=click.IntRange(0), default=10, show_default=True, help="Last lines first.")
@click.option("--follow/--no-follow", default=True, help="Go on to the end of the training.")
def command(run: str, lines: int, follow: bool, cloud: str | None, region: str | None) -> None:
    """The log, losses marked. Ctrl-C only stops looking."""
    if not follow:
        _show_last(run, cloud, region, lines)
        return
    state = follow_log(run, cloud, region, lines=lines)
    if state is not None:
        click.echo(f"{run} {state.get('state')} (exit code {state.get('exit_code')})", err=True)
        if state.get("state") == "failed":
            raise TrainingFailed(f"the training command of {run} failed with exit code {state.get('exit_code')}")


def _show_last(run: str, cloud: str | None, region: str | None, lines: int) -> None:
    """What there is now; of a run whose host is gone, what came home before."""
    from gpuctl.ui.log import LogPrinter
    from gpuctl.workflows.follow import Follower

    opened = open_run_of(run, cloud, region)
    follower = Follower(opened)
    found = follower.history()
    try:
        for update in follower.updates(until_end=False):
            found.extend(update.lines)
    except HostError:
        if not found:
            raise
    printer = LogPrinter()
    printer.show(*found[max(0, len(found) - lines) :])
    printer.finish()
