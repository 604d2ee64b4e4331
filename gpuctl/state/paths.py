"""Where gpuctl keeps its files: under `GPUCTL_HOME` when that is set, else in the XDG folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one user: `state` is worth keeping, `cache` can be made again."""

    state: Path
    cache: Path

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.state / "runs"

    @property
    def cloud(self) -> Path:
        """The embedded cloud's state."""
        return self.state / "cloud"

    @property
    def debug_log(self) -> Path:
        """Where tracebacks go that a person was not shown."""
        return self.state / "debug.log"


def paths(environment: Mapping[str, str] = os.environ) -> Paths:
    """The paths that the environment says (XDG Base Directory Specification; a relative path there is ignored)."""
    home = environment.get("GPUCTL_HOME")
    if home:
        top = Path(home).expanduser().absolute()
        return Paths(state=top / "state", cache=top / "cache")
    return Paths(
        state=_xdg(environment, "XDG_STATE_HOME", ".local/state") / "gpuctl",
        cache=_xdg(environment, "XDG_CACHE_HOME", ".cache") / "gpuctl",
    )


def _xdg(environment: Mapping[str, str], variable: str, default: str) -> Path:
    folder = Path(environment.get(variable, ""))
    return folder if folder.is_absolute() else Path.home() / default
