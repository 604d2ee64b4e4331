"""The training command as the supervisor starts it: its words, its environment, the program they mean."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from provisioning.paths import Paths
from provisioning.runnable import NOT_FOUND, CannotRun, check_file, check_words

# The last: what is installed was not compiled, so an import that may not keep its bytecode is slow every time.
_NOT_FOR_THE_COMMAND = ("PYTHONHOME", "__PYVENV_LAUNCHER__", "PYTHONDONTWRITEBYTECODE")
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Command:
    """Words to run in the folder `cwd`, with an environment of its own."""

    words: list[str]
    environment: dict[str, str]
    cwd: Path

    def program(self) -> Path:
        """The file that the first word means, as a shell would find it. Raises CannotRun where it cannot be run."""
        first = self.words[0]
        check_words(self.words, self.environment)
        if not self.cwd.is_dir():
            raise CannotRun(f"the workspace {self.cwd} is gone: provision the host again")
        if "/" in first:
            path = self.cwd / first
            if not os.path.exists(path):
                raise CannotRun(f"command not found: {first}{_dangling(path)}", NOT_FOUND)
        else:
            found = shutil.which(first, path=self.environment["PATH"])
            if found is None:
                beside = f" (there is ./{first})" if first and os.path.exists(self.cwd / first) else ""
                raise CannotRun(f"command not found: {first or repr(first)}{beside}", NOT_FOUND)
            path = Path(found)
        check_file(first, path)
        return path


def _dangling(path: Path) -> str:
    return f" (a link to {os.readlink(path)}, which does not exist)" if os.path.islink(path) else ""


def read_command(paths: Paths, spec: Mapping[str, Any], provisioned: Mapping[str, Any]) -> Command:
    """The command of a `provision` request, for the environment that `provision` made. Raises CannotRun."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_COMMAND}
    bins = [str(paths.venv / "bin")]
    if provisioned.get("environment"):
        bins.append(str(Path(provisioned["environment"]) / "bin"))
    environment.update(
        PATH=os.pathsep.join([*bins, environment.get("PATH", os.defpath)]),
        VIRTUAL_ENV=str(paths.venv),
        PYTHONUNBUFFERED="1",
        GPUCTL_RUN=str(spec["run"]),
        GPUCTL_METRICS=str(paths.metrics),
        GPUCTL_OUTPUTS=str(_made_outputs(paths, spec)),
    )
    environment.update({str(name): str(value) for name, value in (spec.get("env") or {}).items()})
    return Command(words=list(spec["command"]), environment=environment, cwd=paths.work)


def _made_outputs(paths: Paths, spec: Mapping[str, Any]) -> Path:
    """The first output path; of one that names a file (`model.pt`) or is a pattern, the folder that it will be in."""
    named = (spec.get("outputs") or {}).get("paths") or ["outputs"]
    first = PurePosixPath(named[0])
    plain = list(itertools.takewhile(lambda part: not _WILD.intersection(part), first.parts))
    outputs = paths.work.joinpath(*(plain[:-1] if len(plain) == len(first.parts) and first.suffix else plain))
    try:
        outputs.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        in_the_way = next(path for path in reversed((outputs, *outputs.parents)) if _no_folder(path))
        raise CannotRun(
            f"outputs go into {outputs.relative_to(paths.work)}, but {in_the_way.relative_to(paths.work)} is not a "
            "folder: rename it, or name another folder in job.toml's [outputs] paths"
        ) from None
    return outputs


def _no_folder(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()
