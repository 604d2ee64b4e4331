"""`autoencoder`: the baseline is PCA, the bound is a bound, a run learns and can be killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from jobs.autoencoder.model import Autoencoder, VariationalAutoencoder
from jobs.autoencoder.train import Linear, blur
from tests.jobs.conftest import Train, assert_same_run, losses, random_steps


def test_the_linear_baseline_is_pca() -> None:
    """Where nothing leaves 0 to 1, it gives what scikit-learn's PCA of the same width gives."""
    x = 0.5 + 0.01 * torch.randn(300, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x[:, :, 5:15, 5:15] += 0.1 * torch.randn(300, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    flat = x.flatten(1).numpy()
    reference = PCA(3, svd_solver="full").fit(flat)
    mine = Linear(x, 3)(x).flatten(1).numpy()
    np.testing.assert_allclose(mine, reference.inverse_transform(reference.transform(flat)), atol=1e-4)


@torch.no_grad()
def test_a_picture_goes_through_the_narrow_middle() -> None:
    """As many numbers in the middle as was asked for; what comes out has the shape of what went in."""
    x = torch.rand(5, 1, 28, 28)
    for network in (Autoencoder(3, 4), VariationalAutoencoder(3, 4)):
        assert network.encode(x).shape == (5, 3)
        assert network(x).shape == x.shape
        assert 0 <= float(network(x).min()) <= float(network(x).max()) <= 1


def test_the_bound_is_likelihood_less_divergence() -> None:
    """With a cloud that is N(0, 1) and pixels of one half, it is 784 log 1/2; a cloud off the middle costs m²/2."""
    network = VariationalAutoencoder(2, 4)
    for weights in network.parameters():
        torch.nn.init.zeros_(weights)
    x = (torch.rand(3, 1, 28, 28) > 0.5).float()
    assert network.elbo(x).item() == pytest.approx(784 * np.log(0.5), rel=1e-5)
    network.encoder[-1].bias.data = torch.tensor([3.0, 0.0, 0.0, 0.0])
    assert network.elbo(x).item() == pytest.approx(784 * np.log(0.5) - 4.5, rel=1e-5)


def test_noise_is_the_same_where_it_is_measured() -> None:
    """Two measurements look through the same grain, two training steps do not."""
    x = torch.full((2, 1, 28, 28), 0.5)
    same = [blur(x, 0.3, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*same) and not torch.equal(blur(x, 0.3), blur(x, 0.3))


@pytest.mark.prove
def test_the_smoke_preset_learns(train: Train, tmp_path: Path) -> None:
    """The loss falls, what is seen through noise is better than the noise, and the pictures are there."""
    train("autoencoder", tmp_path, "--preset", "smoke")
    val = list(losses(tmp_path, "val").values())
    assert val[-1] < val[0]
    kept = {"reconstructions.png", "interpolations.png", "map.png", "samples.png", "curve.png", "report.txt"}
    assert kept <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.prove
def test_killed_at_five_random_steps(train: Train, train_killed: Callable[..., int], tmp_path: Path) -> None:
    """SIGKILL at five random steps: every loss and every weight as if nothing had happened."""
    options = ("--preset", "smoke", "--epochs", "25")
    train("autoencoder", tmp_path / "whole", *options)
    assert train_killed("autoencoder", tmp_path / "killed", *options, kills=random_steps(3, among=8, count=5)) == 5
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
