"""What every test stands on: a home of its own, no variables from outside, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from proof import Proof

_KEPT = ("PATH", "LANG", "TERM", "TMPDIR")
_KEPT_PREFIXES = ("PIP_", "SSL_", "COV_", "PYTEST", "REQUESTS_CA", "CURL_CA", "GPUCTL_PROVE", "OPENBLAS")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--proof FOLDER`: leave a dated table there. `--fuzz-seconds N`: how long each parser is fuzzed."""
    parser.addoption("--proof", metavar="FOLDER", type=Path, help="write a dated table of what was proved into FOLDER")
    parser.addoption(
        "--fuzz-seconds",
        metavar="N",
        type=float,
        default=600.0,
        help="how long each parser is fuzzed where that is proved",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Where a proof is asked for, collect it."""
    folder = config.getoption("--proof")
    if folder is not None:
        config.pluginmanager.register(Proof(folder), "gpuctl-proof")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: two a core, since tests of hosts wait as long as they compute."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * cores


@pytest.fixture(autouse=True)
def own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """HOME is empty, AWS and gpuctl variables from outside are gone, and the terminal is plain."""
    home = tmp_path_factory.mktemp("home")
    pip_settings = Path(os.environ.get("PIP_CONFIG_FILE") or Path.home() / ".config/pip/pip.conf")
    for name in list(os.environ):
        if name not in _KEPT and not name.startswith(_KEPT_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LANG", "C.UTF-8")
    if pip_settings.is_file():
        monkeypatch.setenv("PIP_CONFIG_FILE", str(pip_settings))
    yield home
