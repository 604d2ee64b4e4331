"""A job on this machine: small models on one's laptop, with the same contract as on a host."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from gpuctl.core.errors import GpuctlError
from gpuctl.core.job import merge_command
from gpuctl.workflows.jobs import find_job


def local_command(
    job: str, words: Sequence[str], *, outputs: Path, environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that run the job here, from the folder that this is called in."""
    loaded = find_job(job)
    command = list(merge_command(loaded.job.command, words))
    if loaded.job.include and find_spec("torch") is None:
        raise GpuctlError(
            f"job {job} needs what packaged jobs import, and torch is not installed here",
            "get it with: pip install 'gpuctl-train[jobs]'",
        )
    if command[0] in ("python", "python3"):
        command[0] = sys.executable
    if shutil.which(command[0]) is None:
        raise GpuctlError(f"there is no program {command[0]!r} on this machine", "is its virtualenv active?")
    outputs.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(p for p in (str(loaded.working_folder), environment.get("PYTHONPATH")) if p)
    ours = {
        "GPUCTL_OUTPUTS": str(outputs.absolute()),
        "GPUCTL_METRICS": str(outputs.absolute() / "metrics.jsonl"),
        "PYTHONPATH": path,
    }
    return command, {**environment, **ours}
