"""`gpuctl stop`: end the training politely, keep the host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import json_option, print_json, run_command
from gpuctl.core.answers import StopAnswer
from gpuctl.core.endings import ending
from gpuctl.core.hosts import host_alias

if TYPE_CHECKING:
    from gpuctl.core.host_state import HostState
    from gpuctl.workflows.each_host import Outcome
    from gpuctl.workflows.hosts import RunHandle


@click.command("stop")
@run_command
@click.option("--grace", type=click.FloatRange(1, 3600), default=110, show_default=True, help="Seconds before SIGKILL.")
@json_option
def command(run: RunHandle, grace: float, as_json: bool) -> None:
    """Stop the training: Ctrl-C, then SIGTERM, then SIGKILL. The host and its outputs stay.

    The exit code is 1 if one of several hosts did not answer: training on the others is still stopped.
    """
    from gpuctl.workflows.each_host import raise_failed
    from gpuctl.workflows.stop import stop

    outcomes = stop(run, grace_s=grace)
    if as_json:
        first, *others = (_answer(run.name, one) for one in outcomes)
        print_json(replace(first, others=tuple(others)))
    else:
        _tell(run.name, outcomes)
    raise_failed("not stopped:", run.name, outcomes)


def _answer(run: str, one: Outcome[HostState]) -> StopAnswer:
    if one.result is None:
        return StopAnswer(run, "unknown", None, one.number, str(one.error))
    return StopAnswer(run, one.result.training, one.result.exit_code, one.number)


def _tell(run: str, outcomes: list[Outcome[HostState]]) -> None:
    for one in reversed(outcomes):
        if one.result is not None:
            click.echo(
                f"{host_alias(run, one.number)} {ending(one.result)}; the host is still running and still costs money"
            )
    click.echo(f"next: gpuctl pull {run}, gpuctl down {run}")
