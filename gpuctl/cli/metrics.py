"""`gpuctl metrics`: every loss so far."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from gpuctl.cli.following import only_what_is_here
from gpuctl.cli.options import json_option, run_command
from gpuctl.core.errors import HostError

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


@click.command("metrics")
@run_command
@json_option
def command(run: RunHandle, as_json: bool) -> None:
    """List every loss so far, as a table or, with --json, one JSON object per line."""
    from gpuctl.core.losses.points import point_row
    from gpuctl.ui.console import show
    from gpuctl.ui.metrics import points_table
    from gpuctl.workflows.follow import Follower

    follower = Follower(run, reads="points", most_points=None)
    follower.history()
    try:
        for _ in follower.updates(until_end=False):
            pass
    except HostError as error:
        if not follower.losses.points:
            raise
        only_what_is_here(run, error)
    points = follower.losses.points
    if not as_json:
        show(points_table(points))
        return
    for point in points:
        click.echo(json.dumps(point_row(point)))
