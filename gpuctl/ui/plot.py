"""Losses during training, drawn with characters on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpuctl.core.losses.points import Point, Split, downsample, positions
from gpuctl.ui.words import loss

if TYPE_CHECKING:
    from rich.text import Text


class _Look(NamedTuple):
    """How a split is drawn: plotext's marker and colour, the mark that stands for it in a legend, and ASCII's."""

    drawn: str
    color: str
    mark: str
    plain: str


_LOOKS: dict[Split, _Look] = {
    "train": _Look("braille", "cyan+", "⠒⠒", "."),
    "val": _Look("●", "orange+", "●", "o"),
    "test": _Look("▲", "magenta+", "▲", "^"),
}

_DRAWN_AS_IT_IS = (1e-3, 1e5)
_NO_WAY = 1e-9
"""A training that has not come farther than this, in steps or epochs, is at its beginning."""

_ASCII_FRAME = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")


def shown_splits(points: Sequence[Point]) -> list[Split]:
    """What a view shows: train and val; test only in place of a missing val."""
    there = {p.split for p in points if p.loss is not None}
    held_out: Split = "val" if "val" in there else "test"
    wanted: tuple[Split, ...] = ("train", held_out)
    return [split for split in wanted if split in there]


def label(split: Split) -> str:
    """What a split is called in a view."""
    return {"train": "train", "val": "validation", "test": "validation (test set)"}[split]


def plot(points: Sequence[Point], *, width: int, height: int, unicode: bool = True) -> Text:
    """The losses of train and validation, `width` × `height` characters; held-out losses are drawn over train's."""
    import plotext
    from rich.text import Text

    kept = _kept(points, most=4 * width)
    axis, places = positions(kept)
    plotext.clear_figure()
    plotext.plot_size(width, height)
    plotext.theme("clear")
    scale = _scale(kept)
    for split in shown_splits(kept):
        mine = [(place, (p.loss or 0.0) / scale) for place, p in zip(places, kept, strict=True) if p.split == split]
        draw = plotext.plot if split == "train" else plotext.scatter
        look = _LOOKS[split]
        draw(*zip(*mine, strict=True), marker=look.drawn if unicode else look.plain, color=look.color)
    if places:
        last = max(places) if max(places) > _NO_WAY else 1.0
        ticks = _ticks(last, most=max(2, width // 16))
        plotext.xlim(0, last)
        plotext.xticks(ticks, [_count(tick) for tick in ticks])
    if scale != 1.0:
        heights = _heights([(p.loss or 0.0) / scale for p in kept])
        plotext.yticks(heights, [loss(height * scale) for height in heights])
    plotext.xlabel(axis)
    drawn: str = plotext.build()
    drawn = drawn.rstrip("\n")
    return Text.from_ansi(drawn if unicode else drawn.translate(_ASCII_FRAME), no_wrap=True)


def mark(split: Split, *, unicode: bool = True) -> str:
    """The mark that a split is drawn with."""
    return _LOOKS[split].mark if unicode else _LOOKS[split].plain


def _kept(points: Sequence[Point], *, most: int) -> list[Point]:
    """What is drawn: at most `most` finite points of each shown split, in order."""
    kept: set[int] = set()
    for split in shown_splits(points):
        kept.update(id(p) for p in downsample([p for p in points if p.split == split and p.loss is not None], most))
    return [p for p in points if id(p) in kept]


def _scale(points: Sequence[Point]) -> float:
    """What losses are divided by before they are drawn: plotext cannot draw very large and very small numbers."""
    largest = max((abs(p.loss) for p in points if p.loss is not None), default=0.0)
    return largest if largest and not _DRAWN_AS_IT_IS[0] <= largest < _DRAWN_AS_IT_IS[1] else 1.0


def _heights(scaled: Sequence[float]) -> list[float]:
    """Five heights at which a number stands, or one where all losses are the same."""
    low, high = min(scaled), max(scaled)
    return [low] if low == high else [low + (high - low) * i / 4 for i in range(5)]


def _ticks(last: float, *, most: int) -> list[float]:
    """Round numbers from 0 to `last`, at most `most` + 1 of them."""
    rough = last / most
    power: float = 10 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
    return [step * i for i in range(int(last / step * (1 + 1e-9)) + 1)]


def _count(number: float) -> str:
    if number >= 1e6:
        return f"{number / 1e6:g}M"
    return f"{number / 1e3:g}k" if number >= 10_000 else f"{number:g}"
