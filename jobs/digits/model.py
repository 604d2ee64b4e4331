"""A convnet that reads one digit, and one under a bidirectional LSTM that reads a line of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(inside: int, outside: int, size: int) -> nn.Sequential:
    """A convolution that keeps the picture's size, normalised over the batch."""
    convolution = nn.Conv2d(inside, outside, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


def features(width: int) -> nn.Sequential:
    """(N, 1, 28, W) pixels to (N, 2 width, 7, W / 4) features."""
    return nn.Sequential(
        block(1, width, 5),
        block(width, width, 3),
        nn.MaxPool2d(2),
        block(width, 2 * width, 3),
        block(2 * width, 2 * width, 3),
        nn.MaxPool2d(2),
    )


class DigitReader(nn.Module):
    """(N, 1, 28, 28) pixels to (N, 10) scores."""

    def __init__(self, width: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.features = features(width)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 7 * 7, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x))
        return scores


class LineReader(nn.Module):
    """(N, 1, 28, W) pixels to (W / 4, N, 11) log-probabilities: at each column a digit, or class 0, nothing (yet)."""

    def __init__(self, width: int, hidden: int = 96) -> None:
        super().__init__()
        self.features = features(width)
        squeeze = nn.Conv2d(2 * width, 128, (7, 5), padding=(0, 2), bias=False)  # a column sees about a digit's width
        self.columns = nn.Sequential(squeeze, nn.BatchNorm2d(128), nn.ReLU(), nn.Dropout(0.3))
        self.lstm = nn.LSTM(128, hidden, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 11)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.columns(self.features(x)).squeeze(2).permute(2, 0, 1)
        across, _ = self.lstm(seen)
        return F.log_softmax(self.head(across).float(), dim=-1)

    @torch.no_grad()
    def read(self, x: Tensor) -> list[list[int]]:
        """The digits of each line: the likeliest class of each column, repeats joined, then nothings dropped."""
        best = self(x).argmax(dim=-1).T.cpu()
        return [[int(c) - 1 for c in torch.unique_consecutive(row) if c > 0] for row in best]
