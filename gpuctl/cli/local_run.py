"""`gpuctl local`: a job on this machine, with the same outputs and metrics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command("local", context_settings={"ignore_unknown_options": True})
@click.argument("job")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("--outputs", "outputs", metavar="DIR", help="Folder for outputs (default: ./outputs).")
def command(job: str, words: tuple[str, ...], outputs: str | None) -> None:
    """Run JOB on this machine, on CUDA, MPS or the CPU. Arguments after -- are handled as in `launch`.

    The packages that the job imports must be installed: pip install 'gpuctl-train[jobs]'.
    """
    from gpuctl.workflows.local import local_command

    line, environment = local_command(job, words, outputs=Path(outputs or "outputs"), environment=os.environ)
    sys.stdout.flush()
    os.execvpe(line[0], line, environment)
