"""`gan`: how far pictures are from real ones, a game that can be killed, the blur of a squared error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jobs.gan.model import Discriminator, Generator, frechet_distance
from tests.jobs.conftest import Train, assert_same_run, losses, random_steps


def test_the_distance_of_gaussians() -> None:
    """Nothing between a cloud and itself; between two that differ by place and size, what the formula says."""
    cloud = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet_distance(cloud, cloud) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(cloud, cloud + torch.tensor([1.0, 2.0, 0.0])) == pytest.approx(5, abs=1e-9)
    trace = torch.cov(cloud.T).trace().item()
    moved = 2 * cloud - cloud.mean(dim=0)
    assert frechet_distance(cloud, moved) == pytest.approx(trace, rel=1e-6)


@torch.no_grad()
def test_noise_becomes_a_picture_and_a_picture_a_score() -> None:
    """64 numbers give 28 x 28 pixels between 0 and 1; a picture gives one score."""
    made = Generator(64, 4)(torch.randn(5, 64))
    assert made.shape == (5, 1, 28, 28)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert Discriminator(4)(made).shape == (5,)


@pytest.mark.prove
def test_the_smoke_preset_plays(train: Train, tmp_path: Path) -> None:
    """The distance to real pictures falls, squared error alone gives one class, and pictures over time are kept."""
    printed = train("gan", tmp_path, "--preset", "smoke")
    val = list(losses(tmp_path, "val").values())
    assert val[-1] < val[0]
    (blurred,) = (line for line in printed.splitlines() if line.startswith("squared error"))
    assert (
        max(float(share) for share in blurred.removeprefix("squared error").replace("100.0", " 100.0").split()[:10])
        > 80
    )
    kept = {"samples.png", "average.png", "over_time.png", "curve.png", "report.txt", "checkpoint.pt", "samples"}
    assert kept <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.prove
def test_killed_at_five_random_steps(train: Train, train_killed: Callable[..., int], tmp_path: Path) -> None:
    """SIGKILL at five random steps: every loss and every weight as if nothing had happened."""
    options = ("--preset", "smoke", "--steps", "300", "--every", "10")
    train("gan", tmp_path / "whole", *options)
    assert train_killed("gan", tmp_path / "killed", *options, kills=random_steps(4, among=8, count=5)) == 5
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
