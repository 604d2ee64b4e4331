"""`gpuctl metrics`: every loss so far."""

from __future__ import annotations

import json

import click

from gpuctl.cli.following import only_what_is_here
from gpuctl.cli.options import cloud_options, json_option, open_run_of, run_argument
from gpuctl.core.errors import HostError


@click.command("metrics")
@cloud_options
@run_argument
@json_option
def command(run: str, as_json: bool, cloud: str | None, region: str | None) -> None:
    """List every loss so far, as a table or, with --json, one JSON object per line."""
    from gpuctl.core.losses.points import point_row
    from gpuctl.ui.console import show
    from gpuctl.ui.metrics import points_table
    from gpuctl.workflows.follow import Follower

    opened = open_run_of(run, cloud, region)
    follower = Follower(opened)
    follower.history()
    try:
        for _ in follower.updates(until_end=False):
            pass
    except HostError as error:
        if not follower.losses.points:
            raise
        only_what_is_here(opened, error)
    points = follower.losses.points
    if not as_json:
        show(points_table(points))
        return
    for point in points:
        click.echo(json.dumps(point_row(point)))
