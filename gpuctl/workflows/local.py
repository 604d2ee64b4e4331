"""A job on this machine: small models on one's laptop, with the same contract as on a host."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

from packaging.requirements import Requirement

from gpuctl.core.errors import GpuctlError
from gpuctl.core.interpreter import module_command
from gpuctl.core.job import merge_command
from gpuctl.core.python_version import refuse_python
from gpuctl.workflows.job_options import check_words
from gpuctl.workflows.jobs import find_job, is_path, shipped, with_requirements

_MODULE = re.compile(r"-(?P<flags>[bBdEiIOPqRsSuvx]*)m(?P<module>.*)")
_FLAGS = re.compile(r"-([bBdEiIOPqRsSuvx]+|[WX].*)")
"""Of `python`: https://docs.python.org/3/using/cmdline.html"""


@dataclass(frozen=True)
class LocalCommand:
    """A command line, its whole environment, and the folder that it runs in."""

    words: list[str]
    environment: dict[str, str]
    folder: Path


def local_command(
    job: str,
    words: Sequence[str],
    *,
    outputs: Path,
    environment: Mapping[str, str],
    requirement: Sequence[str] = (),
) -> LocalCommand:
    """What runs the job here: a project's in its own folder, as on a host, and a packaged job where this is called.

    Of what the job needs, only a packaged job's own and `requirement` must be installed.
    """
    loaded = with_requirements(find_job(job), requirement)
    packaged = loaded.folder.parent == shipped("jobs")
    folder = Path.cwd() if packaged else loaded.working_folder
    command = list(merge_command(loaded.job.command, words))
    check_words(loaded, words)
    _check_installed(job, loaded.requirements if packaged else requirement)
    if command[0] in ("python", "python3"):
        refuse_python(
            loaded.job.name,
            loaded.requires_python,
            platform.python_version(),
            where="gpuctl itself runs on",
        )
        command[0] = sys.executable
        command = _without_this_folder(command) if packaged else command
    if shutil.which(str(folder / command[0]) if "/" in command[0] else command[0]) is None:
        raise GpuctlError(f"there is no program {command[0]!r} on this machine", "is its virtualenv active?")
    outputs.mkdir(parents=True, exist_ok=True)
    ours = {"GPUCTL_OUTPUTS": str(outputs.absolute()), "GPUCTL_METRICS": str(outputs.absolute() / "metrics.jsonl")}
    if packaged:
        path = (str(loaded.working_folder), environment.get("PYTHONPATH"))
        ours["PYTHONPATH"] = os.pathsep.join(p for p in path if p)
    return LocalCommand(command, {**environment, **ours}, folder)


def _check_installed(job: str, requirements: Sequence[str]) -> None:
    """Raises GpuctlError where a package is not here; folders and addresses are not looked for."""
    named = [Requirement(one) for one in requirements if not is_path(one) and "://" not in one]
    missing = [one.name for one in named if not _installed(one)]
    if missing:
        raise GpuctlError(
            f"job {job} needs packages that are not installed here: {', '.join(missing)}",
            f"install them with: pip install {shlex.join(requirements)}",
        )


def _without_this_folder(command: list[str]) -> list[str]:
    """A `python -m` that imports nothing from here: a json.py of this folder is none of the job's."""
    flags: list[str] = []
    words = iter(command[1:])
    for word in words:
        named = _MODULE.fullmatch(word)
        if named is not None:
            module = [named["module"]] if named["module"] else []
            flags += [f"-{named['flags']}"] if named["flags"] else []
            rest = [*module, *words]
            return module_command(command[0], *rest, flags=flags) if rest else command
        if _FLAGS.fullmatch(word) is None:
            return command
        flags.append(word)
        if word in ("-W", "-X"):
            flags.extend(islice(words, 1))
    return command


def _installed(requirement: Requirement) -> bool:
    """Whether this Python has what a job needs, in a version that will do."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
