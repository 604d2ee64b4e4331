"""`gpuctl local`: a job on this machine, with the same outputs and metrics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command("local", context_settings={"ignore_unknown_options": True})
@click.argument("job")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("--outputs", "outputs", metavar="DIR", help="Where outputs go (./outputs unless said).")
def command(job: str, words: tuple[str, ...], outputs: str | None) -> None:
    """Run JOB here, on CUDA, MPS or the CPU. After `--`, words go to its command as with `launch`.

    It needs what the job imports: pip install 'gpuctl-train[jobs]'.
    """
    from gpuctl.workflows.local import local_command

    line, environment = local_command(job, words, outputs=Path(outputs or "outputs"), environment=os.environ)
    sys.stdout.flush()
    os.execvpe(line[0], line, environment)
