"""The whole tool as a person has it: the `gpuctl` command, an embedded cloud, real hosts, real training."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e_tool import TRAIN, Gpuctl, assert_nothing_runs, in_account

_KEPT = ("PATH", "TMPDIR")


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """By the commands that tests start, under a shell's `&` and `nohup` too: what is ignored is inherited."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What embedded hosts have installed, shared by the whole test run, so that torch is fetched once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "environments"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def running(environments: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpuctl]:
    """The embedded cloud of one test process, started once: tests leave its account empty."""
    folder, environment = _world(tmp_path_factory, "cloud")
    with tool_in(folder, environments, environment) as tool:
        tool("cloud", "start")
        yield tool


@pytest.fixture
def gpuctl(own_world: Path, running: Gpuctl, tmp_path: Path) -> Iterator[Gpuctl]:
    """gpuctl in a fresh home, and an embedded cloud that runs already; afterwards nothing of either is left."""
    with home_in(tmp_path, running, os.environ) as tool:
        yield tool


@pytest.fixture(scope="module")
def shared(running: Gpuctl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpuctl]:
    """The same for all tests of a module, which leave it as they found it."""
    folder, environment = _world(tmp_path_factory, "shared")
    with home_in(folder, running, environment) as tool:
        yield tool


@pytest.fixture
def own_cloud(own_world: Path, environments: Path, tmp_path: Path) -> Iterator[Gpuctl]:
    """gpuctl in a fresh home, and no cloud yet: for a test that starts one in a way of its own, or kills it."""
    with tool_in(tmp_path, environments, os.environ) as tool:
        yield tool


@pytest.fixture(scope="module")
def shared_own_cloud(environments: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpuctl]:
    """The same for all tests of a module."""
    folder, environment = _world(tmp_path_factory, "own")
    with tool_in(folder, environments, environment) as tool:
        yield tool


def _world(tmp_path_factory: pytest.TempPathFactory, name: str) -> tuple[Path, dict[str, str]]:
    """What `own_world` and `tmp_path` are to one test, for several: a folder, and variables with a HOME in it."""
    folder = tmp_path_factory.mktemp(name)
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("PIP_")}
    pip_settings = Path.home() / ".config/pip/pip.conf"
    if pip_settings.is_file():
        kept.setdefault("PIP_CONFIG_FILE", str(pip_settings))
    (folder / "home").mkdir()
    return folder, {**kept, "HOME": str(folder / "home"), "LANG": "C.UTF-8"}


def _tool(folder: Path, environment: Mapping[str, str]) -> Gpuctl:
    home = folder / "g"
    return Gpuctl(home, folder, {**environment, "GPUCTL_HOME": str(home), "GPUCTL_CLOUD": "embedded", "NO_COLOR": "1"})


@contextmanager
def home_in(folder: Path, running: Gpuctl, environment: Mapping[str, str]) -> Iterator[Gpuctl]:
    """gpuctl with its home in this folder and a cloud that runs elsewhere; what a test leaves in it goes."""
    tool = _tool(folder, environment)
    (tool.home / "state").mkdir(parents=True)
    (tool.home / "state/cloud").symlink_to(running.home / "state/cloud")
    tool.forget_calls()
    try:
        yield tool
    finally:
        tool.no_faults()
        if in_account(running.ec2()):
            tool("down", "--all", "-y", "--discard")
        assert in_account(running.ec2()) == {}
        assert_nothing_runs(tool.home)
        shutil.rmtree(tool.home / "state/runs", ignore_errors=True)


@contextmanager
def tool_in(folder: Path, environments: Path, environment: Mapping[str, str]) -> Iterator[Gpuctl]:
    """gpuctl with its home in this folder; in the end its cloud is stopped, and nothing of it runs."""
    tool = _tool(folder, environment)
    (tool.home / "cache").mkdir(parents=True)
    (tool.home / "cache/environments").symlink_to(environments)
    try:
        yield tool
    finally:
        tool("cloud", "stop")
        assert_nothing_runs(tool.home)
        shutil.rmtree(tool.home / "state", ignore_errors=True)


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
