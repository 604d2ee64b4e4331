"""`gpuctl pull`: download a run's outputs, only files that have changed and are complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import DEST, everything_option, json_option, max_size_option, print_json, run_command
from gpuctl.core.outputs import Wish, amount, described
from gpuctl.core.text import safe

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle
    from gpuctl.workflows.pull import PullResult

MOST_LINES = 40


@click.command("pull")
@run_command
@click.argument("dest", required=False, type=DEST)
@max_size_option
@everything_option
@json_option
def command(run: RunHandle, dest: Path | None, max_size: int | None, all_written: bool, as_json: bool) -> None:
    """Download a run's outputs to DEST (default: where they went last time, else ./RUN/).

    The exit code is 1 if training has ended but something it wrote was not downloaded, or if one of several hosts did
    not answer: the outputs of the others are still downloaded.
    """
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.pull import not_home, pull

    with Phases() as phases:
        pulled = pull(run, dest, wish=Wish(max_size, all_written), reporter=phases)
    for one in pulled.results:
        tell(one)
    if as_json:
        print_json(pulled.answer)
    pulled.raise_failed()
    for one in pulled.results:
        left = not_home(run.name, one)
        if one.result.over and left is not None:
            raise left


def tell(brought: PullResult) -> None:
    """Say on standard error what was downloaded, and name what was not."""
    result = brought.result
    files = "1 file" if len(result.files) == 1 else f"{len(result.files)} files"
    moved = f"{files}, {amount(result.bytes_moved)}"
    lines = [f"Downloaded {moved} to {brought.destination} ({result.unchanged} unchanged)"]
    if result.only_log:
        lines.append("only the log was downloaded: the command wrote no other file")
    lines += [f"not downloaded: {described(one)}" for one in result.left]
    lines += [f"not downloaded: {safe(name)} in [outputs] paths matches no file" for name in result.missing]
    lines += [f"not downloaded yet, still being written: {safe(name)}" for name in result.incomplete]
    lines += [f"skipped {safe(name)}: {safe(why)}" for name, why in result.skipped]
    if result.receipt_refused is not None:
        lines.append(f"the host cannot record the download ({safe(result.receipt_refused)}): it keeps running")
    for line in lines[:MOST_LINES]:
        click.echo(line, err=True)
    if len(lines) > MOST_LINES:
        click.echo(f"and {len(lines) - MOST_LINES} more lines; --json lists all", err=True)
