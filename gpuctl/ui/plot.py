"""Losses during training, drawn with characters on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

_LOGARITHMIC_FROM = 30
"""Losses of which the highest is so many times the lowest are a line along the axis on any other scale."""
_MOST_DECIMALS = 6
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
    heights = _heights([p.loss for p in kept if p.loss is not None], rows=height - 4)
    for split in shown_splits(kept):
        mine = [(place, heights.of(p.loss or 0.0)) for place, p in zip(places, kept, strict=True) if p.split == split]
        draw = plotext.plot if split == "train" else plotext.scatter
        look = _LOOKS[split]
        draw(*zip(*mine, strict=True), marker=look.drawn if unicode else look.plain, color=look.color)
    if places:
        last = max(places) if max(places) > _NO_WAY else 1.0
        ticks = _ticks(last, most=max(2, width // 16))
        plotext.xlim(0, last)
        plotext.xticks(ticks, [_count(tick) for tick in ticks])
        plotext.yticks(*zip(*heights.ticks, strict=True))
    plotext.xlabel(f"{axis} (losses on a logarithmic scale)" if heights.logarithmic else axis)
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


class _Heights(NamedTuple):
    """How high each loss is drawn, and the numbers beside the plot: each with its height."""

    of: Callable[[float], float]
    ticks: list[tuple[float, str]]
    logarithmic: bool = False


def _heights(losses: Sequence[float], *, rows: int) -> _Heights:
    """Heights that show these losses. plotext cannot draw very large and very small numbers: they are divided."""
    low, high = min(losses, default=0.0), max(losses, default=0.0)
    most = max(2, rows // 2)
    if low > 0 and high / _LOGARITHMIC_FROM >= low:
        ticks = [(math.log10(tick), f"{tick:g}") for tick in _decades(low, high, most=most)]
        return _Heights(math.log10, ticks, logarithmic=True)
    largest = max(abs(low), abs(high))
    scale = 1.0 if largest == 0 or 1e-3 <= largest < 1e5 else max(5e-324, 10.0 ** math.floor(math.log10(largest)))
    ticks = [(tick / scale, loss(tick)) for tick in sorted({low, high})]
    if low / scale < high / scale:
        ticks = _round_ticks(low / scale, high / scale, most=most, scale=scale) or ticks
    return _Heights(lambda value: value / scale, ticks)


def _round_ticks(low: float, high: float, *, most: int, scale: float) -> list[tuple[float, str]]:
    """Round numbers between two, at most `most`; none where there are not even two of them."""
    power = math.floor(math.log10((high - low) / most))
    for step in (nice * 10.0 ** (power + more) for more in (0, 1, 2) for nice in (1, 2, 5)):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first < most:
            decimals = max(0, -math.floor(math.log10(step)))
            found = [i * step for i in range(first, last + 1)] if last > first and decimals <= _MOST_DECIMALS else []
            return [(tick, f"{tick:.{decimals}f}" if scale == 1.0 else loss(tick * scale)) for tick in found]
    return []


def _decades(low: float, high: float, *, most: int) -> list[float]:
    """Powers of ten between two losses, and twice and five times those where there is room; at most `most`."""
    powers = range(math.floor(math.log10(low)), min(308, math.ceil(math.log10(high))) + 1)
    for mantissas in ((1, 2, 5), (1,)):
        found = [tick for power in powers for m in mantissas if low <= (tick := m * 10.0**power) <= high]
        if 2 <= len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)] if len(found) > 1 else [low, high]


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
