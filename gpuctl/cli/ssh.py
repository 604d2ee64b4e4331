"""`gpuctl ssh`: a shell, one command, or a forward, through the system's own ssh and the run's ssh_config."""

from __future__ import annotations

import os

import click

from gpuctl.cli.options import cloud_options, open_run_of, run_argument


@click.command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@cloud_options
@run_argument
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, run: str, words: tuple[str, ...], cloud: str | None, region: str | None) -> None:
    """Open a shell on the run's host. Arguments after -- are run there; options before it are passed to ssh.

    \b
    gpuctl ssh RUN
    gpuctl ssh RUN -- nvidia-smi
    gpuctl ssh RUN -L 6006:localhost:6006
    """
    from gpuctl.workflows.shell import ssh_command

    options, remote = split_words(words)
    line = ssh_command(open_run_of(run, cloud, region), options=options, remote=remote)
    os.execvp(line[0], line)


def split_words(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is ssh's own (before `--`, or all that begins with a dash), and the remote command."""
    if "--" in words:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    if words and not words[0].startswith("-"):
        return (), words
    return words, ()
