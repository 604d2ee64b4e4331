"""`gpuctl stop`: end the training politely, keep the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import json_option, print_json, run_command
from gpuctl.core.answers import StopAnswer
from gpuctl.core.endings import ending
from gpuctl.core.hosts import host_alias

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


@click.command("stop")
@run_command
@click.option("--grace", type=click.FloatRange(1, 3600), default=110, show_default=True, help="Seconds before SIGKILL.")
@json_option
def command(run: RunHandle, grace: float, as_json: bool) -> None:
    """Stop the training: Ctrl-C, then SIGTERM, then SIGKILL. The host and its outputs stay."""
    from gpuctl.workflows.stop import stop

    states = stop(run, grace_s=grace)
    state = states[0]
    if as_json:
        print_json(StopAnswer(run.name, state.training, state.exit_code))
        return
    for number, other in enumerate(states[1:], start=1):
        click.echo(f"{host_alias(run.name, number)} {ending(other)}")
    click.echo(f"{run.name} {ending(state)}; the host is still running and still costs money")
    click.echo(f"next: gpuctl pull {run.name}, gpuctl down {run.name}")
