"""The whole tool as a person has it: the `gpuctl` command, an embedded cloud, real hosts, real training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_tool import TRAIN, Gpuctl, assert_nothing_runs


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What embedded hosts have installed, shared by the whole test run, so that torch is fetched once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "environments"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def gpuctl(own_world: Path, environments: Path, tmp_path: Path) -> Iterator[Gpuctl]:
    """gpuctl in a fresh home with an embedded cloud of its own; afterwards nothing of it runs."""
    home = tmp_path / "g"
    (home / "cache").mkdir(parents=True)
    (home / "cache/environments").symlink_to(environments)
    environment = {**os.environ, "GPUCTL_HOME": str(home), "GPUCTL_CLOUD": "local", "NO_COLOR": "1"}
    tool = Gpuctl(home, tmp_path, environment)
    try:
        yield tool
    finally:
        tool("cloud", "stop")
        assert_nothing_runs(home)
        shutil.rmtree(home / "state", ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Anybody's project: one script, no job.toml, nothing to install."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture
def launched(gpuctl: Gpuctl, project: Path) -> Callable[..., str]:
    """Launch the project detached; the run's name."""

    def launch(*words: str, name: str = "toy", steps: int = 2000) -> str:
        gpuctl("launch", str(project), "--name", name, "-d", *words, "--", "python", "train.py", str(steps))
        return name

    return launch
