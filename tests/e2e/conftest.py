"""The whole tool as a person has it: the `gpuctl` command, an embedded cloud, real hosts, real training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e_tool import TRAIN, Gpuctl, assert_nothing_runs

_KEPT = ("PATH", "TMPDIR")


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
    with tool_in(tmp_path, environments, os.environ) as tool:
        yield tool


@pytest.fixture(scope="module")
def shared(environments: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpuctl]:
    """The same for all tests of a module, which leave it as they found it: one cloud, started once."""
    folder = tmp_path_factory.mktemp("shared")
    environment = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("PIP_")}
    pip_settings = Path.home() / ".config/pip/pip.conf"
    if pip_settings.is_file():
        environment.setdefault("PIP_CONFIG_FILE", str(pip_settings))
    (folder / "home").mkdir()
    with tool_in(folder, environments, {**environment, "HOME": str(folder / "home"), "LANG": "C.UTF-8"}) as tool:
        yield tool


@contextmanager
def tool_in(folder: Path, environments: Path, environment: Mapping[str, str]) -> Iterator[Gpuctl]:
    """gpuctl with its home in this folder; in the end its cloud is stopped, and nothing of it runs."""
    home = folder / "g"
    (home / "cache").mkdir(parents=True)
    (home / "cache/environments").symlink_to(environments)
    tool = Gpuctl(home, folder, {**environment, "GPUCTL_HOME": str(home), "GPUCTL_CLOUD": "local", "NO_COLOR": "1"})
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
