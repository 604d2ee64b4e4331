"""`gpuctl status`: one run whole."""

from __future__ import annotations

import click

from gpuctl.cli.options import cloud_options, json_option, now, open_run_of, print_json, run_argument


@click.command("status")
@cloud_options
@run_argument
@json_option
def command(run: str, as_json: bool, cloud: str | None, region: str | None) -> None:
    """Show one run: hosts, cost, lease, latest losses, AWS resources and the path of its ssh_config."""
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import status_view
    from gpuctl.workflows.runs import status

    row = status(open_run_of(run, cloud, region), now=now())
    print_json(row) if as_json else show(status_view(row))
