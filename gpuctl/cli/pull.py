"""`gpuctl pull`: a run's outputs home, only what changed, only what is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import DEST, cloud_options, json_option, open_run_of, print_json, run_argument
from gpuctl.core.text import safe

if TYPE_CHECKING:
    from gpuctl.workflows.pull import Brought


@click.command("pull")
@cloud_options
@run_argument
@click.argument("dest", required=False, type=DEST)
@json_option
def command(run: str, dest: Path | None, as_json: bool, cloud: str | None, region: str | None) -> None:
    """Bring outputs home into DEST: where they went last, else ./RUN/."""
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.pull import pull

    opened = open_run_of(run, cloud, region)
    with Phases() as phases:
        brought = pull(opened, dest, reporter=phases)
    tell(brought)
    if as_json:
        print_json(brought.to_json())


def tell(brought: Brought) -> None:
    """What came home, and by name what did not, on standard error."""
    result = brought.result
    moved = f"{len(result.files)} files, {result.bytes_moved / 1e6:.1f} MB"
    click.echo(f"home in {brought.destination}: {moved} ({result.unchanged} were there already)", err=True)
    for name, why in result.skipped:
        click.echo(f"skipped {safe(name)}: {safe(why)}", err=True)
    for name in result.incomplete:
        click.echo(f"still being written, so not home yet: {safe(name)}", err=True)
