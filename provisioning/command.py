"""The training command as the supervisor starts it: its words, its environment, the program they mean."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Optional

from provisioning.places import Places

# The last: what is installed was not compiled, so an import that may not keep its bytecode is slow every time.
_NOT_FOR_THE_COMMAND = ("PYTHONHOME", "__PYVENV_LAUNCHER__", "PYTHONDONTWRITEBYTECODE")
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Command:
    """Words to run in the folder `cwd`, with an environment of its own."""

    words: list[str]
    environment: dict[str, str]
    cwd: Path

    def program(self) -> Optional[Path]:
        """The file that the first word means, as a shell would find it; None where there is none."""
        first = self.words[0]
        if "/" in first:
            path = self.cwd / first
            return path if path.exists() else None
        found = shutil.which(first, path=self.environment["PATH"])
        return Path(found) if found else None


def read_command(places: Places, spec: Mapping[str, Any], provisioned: Mapping[str, Any]) -> Command:
    """The command of a `provision` request, for the environment that `provision` made."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_COMMAND}
    bins = [str(places.venv / "bin")]
    if provisioned.get("environment"):
        bins.append(str(Path(provisioned["environment"]) / "bin"))
    environment.update(
        PATH=os.pathsep.join([*bins, environment.get("PATH", os.defpath)]),
        VIRTUAL_ENV=str(places.venv),
        PYTHONUNBUFFERED="1",
        GPUCTL_RUN=str(spec["run"]),
        GPUCTL_METRICS=str(places.metrics),
        GPUCTL_OUTPUTS=str(_made_outputs(places, spec)),
    )
    environment.update({str(name): str(value) for name, value in (spec.get("env") or {}).items()})
    return Command(words=list(spec["command"]), environment=environment, cwd=places.work)


def _made_outputs(places: Places, spec: Mapping[str, Any]) -> Path:
    """The first output path; of one that names a file (`model.pt`) or is a pattern, the folder that it will be in."""
    paths = (spec.get("outputs") or {}).get("paths") or ["outputs"]
    first = PurePosixPath(paths[0])
    plain = list(itertools.takewhile(lambda part: not _WILD.intersection(part), first.parts))
    outputs = places.work.joinpath(*(plain[:-1] if len(plain) == len(first.parts) and first.suffix else plain))
    outputs.mkdir(parents=True, exist_ok=True)
    return outputs
