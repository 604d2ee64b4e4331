"""`gpuctl attach`: the run's tmux session on this terminal."""

from __future__ import annotations

import os

import click

from gpuctl.cli.options import cloud_options, open_run_of, run_argument


@click.command("attach")
@cloud_options
@run_argument
def command(run: str, cloud: str | None, region: str | None) -> None:
    """Attach to the run's tmux session. Ctrl-b d detaches; Ctrl-c stops the training gracefully."""
    from gpuctl.workflows.shell import ssh_command

    remote = ("tmux", "attach-session", "-t", "gpuctl")
    line = ssh_command(open_run_of(run, cloud, region), options=("-t",), remote=remote)
    os.execvp(line[0], line)
