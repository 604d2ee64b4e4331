"""`gpuctl offers`: what a GPU costs now."""

from __future__ import annotations

from typing import Any

import click

from gpuctl.cli.options import cloud_options, json_option, print_json, profile_of


@click.command("offers")
@cloud_options
@click.option("--gpu", metavar="NAME[:COUNT]", help="GPU model and count, for example a10g or a100-80gb:8.")
@click.option("--instance-type", metavar="TYPE", help="EC2 instance type.")
@click.option(
    "--on-demand",
    type=click.Choice(["never", "fallback", "only"]),
    default="never",
    show_default=True,
    help="Also list on-demand instances (fallback), or list only those (only).",
)
@json_option
def command(as_json: bool, cloud: str | None, region: str | None, **asked: Any) -> None:
    """List instance types, zones and current prices, cheapest first (default: those that `launch` chooses from)."""
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import offers_table
    from gpuctl.workflows.planning import list_offers

    profile, _ = profile_of(cloud)
    rows = list_offers(profile, region=region, **asked)
    print_json({"offers": rows}) if as_json else show(offers_table(rows))
