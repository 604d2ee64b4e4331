"""Pictures that more than one job draws. No display is needed."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure


def loss_curve(metrics: Path, *, unit: str = "loss", title: str = "") -> Figure:
    """Training and validation loss over epochs, from a run's metrics file (its last value where a step repeats)."""
    curves: dict[str, dict[float, float]] = {}
    for line in metrics.read_text().splitlines():
        point = json.loads(line)
        if point["loss"] is not None:
            curves.setdefault(point["split"], {})[point["epoch"]] = point["loss"]
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_subplot()
    for split, style in (("train", "-"), ("val", "-"), ("test", "*")):
        if split in curves:
            epochs = sorted(curves[split])
            axes.plot(epochs, [curves[split][epoch] for epoch in epochs], style, label=split)
    axes.set(xlabel="epoch", ylabel=unit, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
