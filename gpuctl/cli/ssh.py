"""`gpuctl ssh`: a shell, one command or a port forward, through the system's own ssh and the run's ssh_config."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import run_command
from gpuctl.state.paths import paths

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


def _show_include(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    """Print the line, and where it belongs."""
    from gpuctl.workflows.shell import include_line

    if asked:
        click.echo(include_line(paths()))
        click.echo("put it at the top of ~/.ssh/config; then `ssh RUN` and VS Code's Remote-SSH reach a run", err=True)
        ctx.exit()


@click.command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@run_command
@click.option(
    "--config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_include,
    help="Print the line for ~/.ssh/config that lets ssh and editors find the hosts.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(run: RunHandle, words: tuple[str, ...]) -> None:
    """Open a shell on the run's host, in the workspace and with its virtualenv active.

    Arguments after -- are run there as a command, by a shell, as with ssh; options before -- are passed to ssh.

    \b
    gpuctl ssh RUN
    gpuctl ssh RUN -- nvidia-smi
    gpuctl ssh RUN -- 'cd gpuctl/work && ls'
    gpuctl ssh RUN -L 6006:localhost:6006
    """
    from gpuctl.workflows.shell import ssh_command

    options, remote = split_words(words)
    line = ssh_command(run, options=options, remote=remote, on_terminal=sys.stdin.isatty())
    os.execvp(line[0], line)


def split_words(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the words into ssh's own (before `--`, or all if the first has a dash) and the remote command."""
    if "--" in words:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    if words and not words[0].startswith("-"):
        return (), words
    return words, ()
