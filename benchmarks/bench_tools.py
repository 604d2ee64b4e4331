"""What the benchmarks share: a clean installation to time, an embedded cloud of their own, medians of rounds."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import gpuctl
from gpuctl.core.cloud_key import request_headers
from gpuctl.core.profile import Profile
from gpuctl.state.paths import Paths, paths
from gpuctl.workflows.clouds import embedded_environment, embedded_profile, start_embedded, stop_embedded

_OPEN = build_opener(ProxyHandler({})).open

TRAIN = """
import os, pathlib, sys, time
out = pathlib.Path(os.environ["GPUCTL_OUTPUTS"])
for number in range(int(sys.argv[1])):
    (out / f"{number:04}.bin").write_bytes(os.urandom(2048))
print("step 1  epoch 0.10  train loss 1.0000  val loss 1.1000", flush=True)
time.sleep(3600)
"""
"""A toy project's training: so many small outputs, one line, then it only lives."""


@dataclass(frozen=True)
class Part:
    """One part of the page: what was measured, as Markdown."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Tool:
    """gpuctl as pipx installs it: a virtualenv of its own, where no other package runs code at Python's start."""

    python: str
    gpuctl: str


@dataclass(frozen=True)
class Cloud:
    """An embedded cloud that is the benchmark's own, and the environment of a shell that uses it."""

    paths: Paths
    profile: Profile
    environment: Mapping[str, str] = field(repr=False)

    def calls(self) -> list[str]:
        """The operations that AWS was asked for since `forget_calls`."""
        with self._ask("GET") as answer:
            return [f"{call['service']}:{call['operation']}" for call in json.load(answer)["calls"]]

    def forget_calls(self) -> None:
        """Count from here."""
        self._ask("DELETE").close()

    def _ask(self, method: str) -> Any:
        url = f"{self.profile.endpoint_url}/gpuctl/calls"
        return _OPEN(Request(url, method=method, headers=request_headers(self.profile.cloud_key, method, url)))


@contextmanager
def installed(folder: Path) -> Iterator[Tool]:
    """A clean virtualenv that sees this one's packages, so that both sides of a ratio start as a user's would.

    Some packages of a developer's environment run code whenever Python starts (`*.pth` files), which makes
    `python -c pass` slow and every ratio to it look good. Folders named in a `.pth` of ours have theirs left out.
    """
    home = folder / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    library = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    sources = Path(gpuctl.__file__).parents[1]
    (library / "benchmark.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sources}\n")
    script = home / "bin" / "gpuctl"
    script.write_text(f"#!{python}\nimport sys\nfrom gpuctl.cli.main import main\nsys.exit(main())\n")
    script.chmod(0o755)
    yield Tool(str(python), str(script))


@contextmanager
def embedded_cloud(cache: Path | None = None) -> Iterator[Cloud]:
    """An embedded cloud in a home of its own; afterwards nothing of it is left but what is in `cache`."""
    home = Path(tempfile.mkdtemp(prefix="gb"))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        (home / "cache").symlink_to(cache)
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GPUCTL_"))}
    mine |= {"GPUCTL_HOME": str(home), "GPUCTL_CLOUD": "embedded", "NO_COLOR": "1"}
    here = paths(mine)
    try:
        cloud = start_embedded(here)
        yield Cloud(here, embedded_profile(cloud), {**mine, **embedded_environment(cloud)})
    finally:
        stop_embedded(here)
        shutil.rmtree(home, ignore_errors=True)


def toy_project(folder: Path) -> Path:
    """A project of one script, with nothing to install."""
    project = folder / "project"
    project.mkdir()
    (project / "train.py").write_text(TRAIN)
    return project


def run(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a program whole. Its output is kept only to be shown where it fails."""
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stderr.decode(errors='replace')}")


def medians(rounds: int, contestants: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median seconds of each, over rounds in which each runs once, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            contestant()
            if number:
                seconds[name].append(time.perf_counter() - began)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def milliseconds(seconds: float) -> str:
    """For a table."""
    return f"{seconds * 1000:.0f} ms"
