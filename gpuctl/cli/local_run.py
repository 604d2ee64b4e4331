"""`gpuctl local`: a job on this machine, with the same outputs and metrics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gpuctl.cli.options import requirement_option


@click.command("local", context_settings={"ignore_unknown_options": True})
@click.argument("job")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("--outputs", "outputs", metavar="DIR", help="Folder for outputs (default: ./outputs).")
@requirement_option
def command(job: str, words: tuple[str, ...], outputs: str | None, requirement: tuple[str, ...]) -> None:
    """Run JOB on this machine, on CUDA, MPS or the CPU. Arguments after -- are handled as in `launch`.

    A project's command runs in the project's folder. Install the packages that it imports yourself.
    """
    from gpuctl.workflows.local import local_command

    run = local_command(job, words, outputs=Path(outputs or "outputs"), environment=os.environ, requirement=requirement)
    sys.stdout.flush()
    os.chdir(run.folder)
    os.execvpe(run.words[0], run.words, run.environment)
