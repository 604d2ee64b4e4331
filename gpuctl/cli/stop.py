"""`gpuctl stop`: end the training politely, keep the host."""

from __future__ import annotations

import click

from gpuctl.cli.options import cloud_options, json_option, open_run_of, print_json, run_argument
from gpuctl.core.answers import StopAnswer
from gpuctl.core.endings import ending
from gpuctl.core.hosts import host_alias


@click.command("stop")
@cloud_options
@run_argument
@click.option("--grace", type=click.FloatRange(1, 3600), default=110, show_default=True, help="Seconds before SIGKILL.")
@json_option
def command(run: str, grace: float, as_json: bool, cloud: str | None, region: str | None) -> None:
    """Stop the training: Ctrl-C, then SIGTERM, then SIGKILL. The host and its outputs stay."""
    from gpuctl.workflows.stop import stop

    states = stop(open_run_of(run, cloud, region), grace_s=grace)
    state = states[0]
    if as_json:
        print_json(StopAnswer(run, state.training, state.exit_code))
        return
    for number, other in enumerate(states[1:], start=1):
        click.echo(f"{host_alias(run, number)} {ending(other)}")
    click.echo(f"{run} {ending(state)}; the host is still running and still costs money")
    click.echo(f"next: gpuctl pull {run}, gpuctl down {run}")
