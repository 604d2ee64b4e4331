"""Every packaged job, launched for real: it trains on a host of the embedded cloud, loss falls, outputs come home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e_tool import Gpuctl

JOBS = sorted(path.parent.name for path in Path(__file__).parents[2].glob("jobs/*/job.toml"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", JOBS)
def test_a_packaged_job_trains_on_a_host(gpuctl: Gpuctl, job: str) -> None:
    """The smoke preset runs to its end, its last train loss is below its first, and its outputs are home."""
    words = ("--pull", "home", "-y", "--name", "smoke", "--", "--preset", "smoke")
    answer = gpuctl("launch", job, *words, timeout=800)
    points = [json.loads(line) for line in gpuctl("metrics", "smoke", "--json").out.splitlines()]
    train = [p["loss"] for p in points if p["split"] == "train"]
    assert len(train) >= 2 and train[-1] < train[0], answer.out
    assert any(p["split"] == "val" for p in points)
    home = [path for path in (gpuctl.folder / "home/outputs").rglob("*") if path.is_file()]
    assert any(path.suffix in (".pt", ".npz") for path in home), home
    assert gpuctl.json("down", "smoke")["left"] == []
