"""`gpuctl status`: one run in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import json_option, now, print_json, run_command

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


@click.command("status")
@run_command
@json_option
def command(run: RunHandle, as_json: bool) -> None:
    """Show one run: hosts, cost, lease, latest losses, AWS resources and the path of its ssh_config."""
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import status_view
    from gpuctl.workflows.runs import status

    row = status(run, now=now())
    print_json(row) if as_json else show(status_view(row))
