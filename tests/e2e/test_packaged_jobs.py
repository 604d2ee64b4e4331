"""Packaged jobs, launched for real: each trains on a host of the embedded cloud, loss falls, outputs come home."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_tool import Gpuctl
from pythons_here import pythons_here

JOBS = sorted(path.parent.name for path in Path(__file__).parents[2].glob("jobs/*/job.toml"))
OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHERS = [minor for minor in pythons_here() if minor != OWN and tuple(map(int, minor.split("."))) >= (3, 10)]


def train_and_come_home(gpuctl: Gpuctl, job: str) -> str:
    """The smoke preset runs to its end, its last train loss is below its first, its outputs are home; what was said."""
    run = job.replace("_", "-")
    words = ("--pull", f"home/{run}", "-y", "--name", run, "--", "--preset", "smoke")
    answer = gpuctl("launch", job, *words, timeout=1800)
    points = [json.loads(line) for line in gpuctl("metrics", run, "--json").out.splitlines()]
    train = [p["loss"] for p in points if p["split"] == "train"]
    assert len(train) >= 2 and train[-1] < train[0], answer.out
    assert any(p["split"] == "val" for p in points)
    home = [path for path in (gpuctl.folder / "home" / run / "outputs").rglob("*") if path.is_file()]
    assert any(path.suffix in (".pt", ".npz") for path in home), home
    assert gpuctl.json("down", run)["left"] == []
    return answer.err


@pytest.fixture
def emptied(environments: Path) -> Iterator[Path]:
    """What embedded hosts have installed, gone again afterwards: with CUDA's libraries one set is five gigabytes."""
    before = set(environments.iterdir())
    yield environments
    for path in set(environments.iterdir()) - before:
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.timeout(900)
def test_a_packaged_job_trains_on_a_host(gpuctl: Gpuctl) -> None:
    """The one of the quick start, from a host with nothing installed to its model at home."""
    train_and_come_home(gpuctl, "char_rnn")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not OTHERS, reason=f"this machine has Python {OWN} alone")
def test_numpy_is_enough_on_a_host_with_another_python(own_cloud: Gpuctl) -> None:
    """from_scratch, on a host whose Python is not the laptop's; torch is neither there nor fetched."""
    own_cloud("cloud", "start", "--python", pythons_here()[OTHERS[0]].path)
    told = train_and_come_home(own_cloud, "from_scratch")
    assert "numpy" in told and "torch" not in told, told


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("minor", [OWN, *OTHERS])
def test_every_packaged_job_trains_on_every_python(
    own_cloud: Gpuctl,
    emptied: Path,
    minor: str,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> None:
    """Each with what its own requirements bring and nothing else, as a host of that Python finds it on the index."""
    cache = tmp_path_factory.getbasetemp() / "pip"  # CUDA's libraries are the same for every Python
    own_cloud("cloud", "start", "--python", pythons_here()[minor].path, PIP_CACHE_DIR=str(cache))
    for job in JOBS:
        began = time.monotonic()
        train_and_come_home(own_cloud, job)
        record_property(job, f"{time.monotonic() - began:.0f} s")
