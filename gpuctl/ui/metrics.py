"""Points as a table, for `gpuctl metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuctl.core.losses.points import Point
from gpuctl.ui.words import loss

if TYPE_CHECKING:
    from rich.console import RenderableType


def points_table(points: Sequence[Point]) -> RenderableType:
    """Every point on a line of its own, in the order in which they came."""
    from rich.table import Table
    from rich.text import Text

    from gpuctl.ui.tables import SPLIT_STYLES

    if not points:
        return Text("no losses yet", style="dim")
    timed = any(p.time is not None for p in points)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("step", "epoch"):
        table.add_column(name, justify="right")
    table.add_column("split")
    table.add_column("loss", justify="right")
    if timed:
        table.add_column("time")
    for p in points:
        style = SPLIT_STYLES[p.split] if p.loss is not None else "bold red"
        cells = [
            Text("-" if p.step is None else str(p.step)),
            Text("-" if p.epoch is None else f"{p.epoch:.4g}" if p.epoch < 1e4 else f"{p.epoch:.0f}"),
            Text(p.split, style=style),
            Text(loss(p.loss, p.nonfinite), style=style),
        ]
        if timed:
            cells.append(Text("-" if p.time is None else f"{p.time.astimezone():%Y-%m-%d %H:%M:%S}", style="dim"))
        table.add_row(*cells)
    return table
