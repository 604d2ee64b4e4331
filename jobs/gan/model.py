"""One network makes pictures out of noise, the other says whether a picture is real."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Generator(nn.Module):
    """(N, noise) numbers to (N, 1, 28, 28) pixels from 0 to 1."""

    def __init__(self, noise: int, width: int) -> None:
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(
            nn.Linear(noise, 2 * width * 7 * 7, bias=False),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z)
        return x


class Discriminator(nn.Module):
    """(N, 1, 28, 28) pixels to N scores: high for what looks real.

    Spectral normalisation (arXiv 1802.05957) keeps its judgement from being too steep to learn from.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

        def smooth(layer: nn.Module) -> nn.Module:
            return parametrizations.spectral_norm(layer)

        self.layers = nn.Sequential(
            smooth(nn.Conv2d(1, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            smooth(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            smooth(nn.Linear(2 * width * 7 * 7, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.layers(x)
        return score[:, 0]


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """How far apart two clouds of features (N, F) are, each taken as a Gaussian (arXiv 1706.08500, equation 6)."""
    one, other = one.cpu().double(), other.cpu().double()  # no double precision on MPS
    spread = torch.cov(one.T) @ torch.cov(other.T)
    both = torch.linalg.eigvals(spread).real.clamp(min=0).sqrt().sum()
    apart = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
    return float(apart + torch.cov(one.T).trace() + torch.cov(other.T).trace() - 2 * both)
