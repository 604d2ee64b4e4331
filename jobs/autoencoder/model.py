"""Input = output, through a narrow middle."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Autoencoder(nn.Module):
    """(N, 1, 28, 28) pixels to `middle` numbers and back to the scores (before the sigmoid) of as many pixels."""

    def __init__(self, middle: int, width: int, *, out: int | None = None) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 7 * 7, 128),
            nn.ReLU(),
            nn.Linear(128, out or middle),
        )
        self.decoder = nn.Sequential(
            nn.Linear(middle, 128),
            nn.ReLU(),
            nn.Linear(128, 2 * width * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
        )

    def encode(self, x: Tensor) -> Tensor:
        """The middle: (N, middle)."""
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Pixels from 0 to 1."""
        return torch.sigmoid(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """What comes out for what went in."""
        return self.decode(self.encode(x))


class VariationalAutoencoder(Autoencoder):
    """The encoder names a cloud instead of a point: a mean and a spread for each number of the middle."""

    def __init__(self, middle: int, width: int) -> None:
        super().__init__(middle, width, out=2 * middle)

    def encode(self, x: Tensor) -> Tensor:
        """The middle of the cloud."""
        return self.cloud(x)[0]

    def cloud(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Its mean and the logarithm of its variance: (N, middle) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def elbo(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The evidence lower bound in nats a picture, with one draw (Kingma and Welling, arXiv 1312.6114, equation 10).

        log p(x|z), a pixel's grey taken as the probability of ink, less the divergence of the cloud from N(0, 1).
        """
        mean, log_variance = self.cloud(x)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        scores = self.decoder(mean + noise * torch.exp(log_variance / 2))
        likelihood = -F.binary_cross_entropy_with_logits(scores, x, reduction="sum") / len(x)
        divergence = 0.5 * torch.sum(mean**2 + log_variance.exp() - 1 - log_variance) / len(x)
        return likelihood - divergence
