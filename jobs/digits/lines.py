"""Lines of handwriting, made of single digits: they come closer and further apart, touch, and dance up and down."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.common.digits_data import Part

LONGEST = 7
CLOSE, FAR = 18, 32  # pixels from one digit to the next; a digit's ink is up to 20 wide
DANCE = 3  # pixels up or down
MARGIN = 12


@dataclass(frozen=True)
class Lines:
    """Pictures (N, 1, 28, W), and of each line its digits."""

    x: Tensor
    digits: list[list[int]]


def write_lines(
    part: Part, count: int, rng: torch.Generator, *, shortest: int = 3, longest: int = LONGEST, warped: bool = False
) -> Lines:
    """`count` lines of digits drawn from `part`. How long, which, how far apart: all of it follows from `rng`."""
    lengths = torch.randint(shortest, longest + 1, (count,), generator=rng)
    chosen = part.take(torch.randint(len(part), (int(lengths.sum()),), generator=rng))
    pictures = warp(chosen.x, rng) if warped else chosen.x
    lines = torch.zeros(count, 1, 28, 28 + FAR * (longest - 1) + MARGIN)
    digits, first = [], 0
    for i, length in enumerate(lengths.tolist()):
        steps = torch.randint(CLOSE, FAR + 1, (length,), generator=rng)
        steps[0] = torch.randint(MARGIN + 1, (1,), generator=rng)
        heights = torch.randint(-DANCE, DANCE + 1, (length,), generator=rng).tolist()
        for picture, at, height in zip(
            pictures[first : first + length], steps.cumsum(0).tolist(), heights, strict=True
        ):
            place = lines[i, :, :, at : at + 28]
            torch.maximum(place, picture.roll(height, dims=1), out=place)
        digits.append(chosen.y[first : first + length].tolist())
        first += length
    return Lines(lines, digits)


def warp(x: Tensor, rng: torch.Generator | None = None, *, strength: float = 1.0) -> Tensor:
    """Each digit as another hand might have written it: turned, slanted, larger or smaller, off its place."""

    def between(low: float, high: float) -> Tensor:
        device = rng.device if rng is not None else x.device
        drawn = torch.rand(len(x), generator=rng, device=device) * (high - low) + low
        return (drawn * strength).to(x.device)

    turn, size, slant = between(-0.26, 0.26), 1 + between(-0.15, 0.15), between(-0.25, 0.25)
    rows = [
        torch.stack([size * turn.cos(), slant - size * turn.sin(), between(-0.15, 0.15)], dim=1),
        torch.stack([size * turn.sin(), size * turn.cos(), between(-0.15, 0.15)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def equal_boxes(line: Tensor, count: int) -> Tensor:
    """The baseline: a line (1, 28, W), known to hold `count` digits, cut into so many boxes of one width.

    Each box is moved so that its ink is in the middle of 28 x 28 pixels, as a single digit's is: (count, 1, 28, 28).
    """
    inked = torch.nonzero(line.sum(dim=(0, 1)))[:, 0]
    borders = torch.linspace(int(inked[0]), int(inked[-1]) + 1, count + 1).round().int().tolist()
    boxes = torch.zeros(count, 1, 28, 28)
    for i, (left, right) in enumerate(pairwise(borders)):
        ink = line[:, :, left:right]
        across = ink.sum(dim=(0, 1))
        middle = float((across * torch.arange(right - left)).sum() / across.sum().clamp(min=1e-6))
        wide = F.pad(ink, (28, 28))
        start = round(middle) + 14
        boxes[i] = wide[:, :, start : start + 28]
    return boxes


def mistakes(read: list[int], written: list[int]) -> int:
    """Levenshtein's distance: how many digits must be put in, left out or changed."""
    row = list(range(len(written) + 1))
    for i, seen in enumerate(read, start=1):
        above, row = row, [i]
        for j, true in enumerate(written, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (seen != true)))
    return row[-1]


def score(readings: list[list[int]], truth: list[list[int]]) -> tuple[float, float]:
    """The share of lines that are wholly right, and wrong characters per character."""
    wrong = [mistakes(read, written) for read, written in zip(readings, truth, strict=True)]
    return sum(w == 0 for w in wrong) / len(wrong), sum(wrong) / sum(len(written) for written in truth)
