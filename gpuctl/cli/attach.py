"""`gpuctl attach`: the run's tmux session on this terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import run_command

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


@click.command("attach")
@run_command
def command(run: RunHandle) -> None:
    """Attach to the run's tmux session. Ctrl-b d detaches; Ctrl-c stops the training gracefully."""
    from gpuctl.workflows.shell import ssh_command

    remote = ("tmux", "attach-session", "-t", "gpuctl")
    line = ssh_command(run, options=("-t",), remote=remote)
    os.execvp(line[0], line)
