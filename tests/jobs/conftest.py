"""Jobs run the way a person runs them: `python -m jobs.NAME.train`, in the folder above `jobs`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.common.numpy_run import NumpyRun

ROOT = Path(__file__).parents[2]
Train = Callable[..., str]


def command(job: str, outputs: Path, *options: str) -> list[str]:
    """One thread, so that a test's figures do not depend on how many cores there are (NumPy's: see `surroundings`)."""
    threads = [] if job == "from_scratch" else ["--threads", "1"]
    return [sys.executable, "-m", f"jobs.{job}.train", "--outputs", str(outputs), *threads, *options]


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A Run takes over SIGINT and SIGTERM: given back after each test."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def train() -> Train:
    """Run a job to its end and give what it printed."""

    def run(job: str, outputs: Path, *options: str) -> str:
        done = subprocess.run(
            command(job, outputs, *options), cwd=ROOT, capture_output=True, text=True, env=surroundings(), timeout=500
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture
def train_killed() -> Callable[..., int]:
    """Run a job, SIGKILL it after so many losses each time, start it again; the last time it runs to its end."""

    def run(job: str, outputs: Path, *options: str, kills: list[int]) -> int:
        killed = 0
        for losses in [*kills, None]:
            process = subprocess.Popen(
                command(job, outputs, *options), cwd=ROOT, stdout=subprocess.PIPE, text=True, env=surroundings()
            )
            assert process.stdout is not None
            seen = 0
            for line in process.stdout:
                seen += line.startswith("step ")
                if losses is not None and seen >= losses:
                    os.kill(process.pid, signal.SIGKILL)
                    break
            killed += process.wait(timeout=500) == -signal.SIGKILL
            process.stdout.close()
        return killed

    return run


def surroundings() -> dict[str, str]:
    """The test's own variables, one thread for what is not torch, and fonts that are looked for once in all tests."""
    fonts = str(Path(os.environ["HOME"]).parent / "matplotlib")
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": fonts}


def losses(outputs: Path, split: str | None = None) -> dict[tuple[int, str], float]:
    """Each step's loss, the last word where an attempt repeats a step."""
    points = [json.loads(line) for line in (outputs / "metrics.jsonl").read_text().splitlines()]
    return {(p["step"], p["split"]): p["loss"] for p in points if split in (None, p["split"])}


def random_steps(seed: int, *, among: int, count: int) -> list[int]:
    """After how many losses to kill, each time."""
    return [random.Random(seed + i).randint(1, among) for i in range(count)]


def equal(one: Any, other: Any) -> bool:
    """The same to the last bit, whatever a checkpoint nests; but for the clock."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one if k != "elapsed_s")
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def assert_same_run(one: Path, other: Path) -> None:
    """Every loss and every final weight of two runs is the same, bit for bit."""
    assert losses(one) == losses(other)
    assert equal(checkpoint_of(one), checkpoint_of(other))


def checkpoint_of(outputs: Path) -> Any:
    """What a run kept last, torch's or NumPy's."""
    if (outputs / "checkpoint.npz").exists():
        return NumpyRun(outputs=outputs).read_state(outputs / "checkpoint.npz")
    return torch.load(outputs / "checkpoint.pt", weights_only=True)
