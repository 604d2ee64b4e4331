"""Points: one loss of one split at one place in the training, and the metrics file that holds them.

The file that `GPUCTL_METRICS` names has one JSON object a line; docs/metrics.md is the contract.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
}
"""The names that people give to the three splits."""

_LOSS_KEYS: Mapping[str, Split] = {f"{name}_loss": split for name, split in SPLIT_NAMES.items()}

LINE_LIMIT = 64 * 1024
"""A metrics line longer than so many bytes is not read."""

MOST_POINTS = 200_000
"""So many are kept in memory where not every one of them is asked for."""

_STEP_LIMIT = 2**53
_YEARS = range(1970, 9000)
"""A time in another year is no time: it cannot be shown in every time zone."""


@dataclass(frozen=True, slots=True)
class Point:
    """One loss. `loss` is None where it is not finite, and `nonfinite` then says what it was: `nan`, `inf`, `-inf`.

    `epoch` counts passes over the data and may be a fraction; `time` is when the program says it was, if it says so.
    """

    step: int | None
    epoch: float | None
    split: Split
    loss: float | None
    nonfinite: str | None = None
    time: datetime | None = None


def point(
    split: Split, loss: float, *, step: int | None = None, epoch: float | None = None, time: datetime | None = None
) -> Point:
    """A point of a loss that may be NaN or infinite."""
    if math.isfinite(loss):
        return Point(step, epoch, split, loss, None, time)
    return Point(step, epoch, split, None, "nan" if math.isnan(loss) else "inf" if loss > 0 else "-inf", time)


def point_row(point: Point) -> dict[str, Any]:
    """The point as `gpuctl metrics --json` prints it; `nonfinite` is there only where the loss is null."""
    found = {
        "step": point.step,
        "epoch": point.epoch,
        "split": point.split,
        "loss": point.loss,
        "time": None if point.time is None else point.time.isoformat().replace("+00:00", "Z"),
    }
    return found if point.nonfinite is None else {**found, "nonfinite": point.nonfinite}


def parse_metrics_line(line: bytes) -> list[Point]:
    """The points of one line; none where it has none, whatever the bytes are."""
    if not line.strip() or len(line) > LINE_LIMIT:
        return []
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(said, dict):
        return []
    step, epoch, time = _step(said.get("step")), _epoch(said.get("epoch")), _time(said.get("time"))
    return [point(split, loss, step=step, epoch=epoch, time=time) for split, loss in _losses(said)]


def last_by_split(points: Iterable[Point]) -> dict[Split, Point]:
    """The newest point of each split that has one."""
    return {found.split: found for found in points}


def positions(points: Sequence[Point]) -> tuple[Literal["step", "epoch", "point"], list[float]]:
    """Where each point stands along the training, and what is counted there.

    Steps where any point has one; a point that has its epoch alone is put at the step where the points before it say
    that this epoch is. Else epochs, else the points' own order.
    """
    if any(found.step is not None for found in points):
        return "step", _along(points)
    if any(found.epoch is not None for found in points):
        last, places = 0.0, []
        for found in points:
            last = last if found.epoch is None else found.epoch
            places.append(last)
        return "epoch", places
    return "point", [float(i) for i in range(len(points))]


def downsample(points: Sequence[Point], n: int) -> list[Point]:
    """At most `n` of the points (no fewer than two a split), in order: the first, the last and the extremes between.

    The splits share `n` equally, and what one does not need (a few `val` beside many `train`) is the others'. Each
    stretch of a split's points gives its lowest and its highest, so that a spike is never lost. Points that are not
    finite count as highest.
    """
    if len(points) <= n:
        return list(points)
    by_split = [[i for i, found in enumerate(points) if found.split == split] for split in SPLITS]
    kept: set[int] = set()
    for done, mine in enumerate(sorted(by_split, key=len)):
        kept.update(_extremes(points, mine, max(2, (n - len(kept)) // (len(by_split) - done))))
    return [points[i] for i in sorted(kept)]


def thin(points: list[Point], most: int | None) -> None:
    """Where there are more than `most`, keep half as many of them, spread as `downsample` does; None: no limit."""
    if most is not None and len(points) > most:
        points[:] = downsample(points, most // 2)


def _extremes(points: Sequence[Point], mine: list[int], n: int) -> set[int]:
    if len(mine) <= n:
        return set(mine)

    def height(i: int) -> float:
        loss = points[i].loss
        return math.inf if loss is None else loss

    kept, inner, stretches = {mine[0], mine[-1]}, mine[1:-1], (n - 2) // 2
    for k in range(stretches):
        stretch = inner[k * len(inner) // stretches : (k + 1) * len(inner) // stretches]
        kept.update((min(stretch, key=height), max(stretch, key=height)))
    return kept


def _along(points: Sequence[Point]) -> list[float]:
    last, steps_an_epoch, places = 0.0, None, []
    for found in points:
        if found.step is not None:
            last = float(found.step)
            if found.epoch:
                steps_an_epoch = found.step / found.epoch
        elif found.epoch is not None and steps_an_epoch is not None:
            last = max(last, min(found.epoch * steps_an_epoch, float(_STEP_LIMIT)))
        places.append(last)
    return places


def _losses(said: Mapping[str, Any]) -> list[tuple[Split, float]]:
    """`loss` with its `split`, and `train_loss`, `val_loss` and their like."""
    found: list[tuple[Split, float]] = []
    split = said.get("split", "train")
    loss = _loss(said.get("loss"), said.get("nonfinite"))
    if loss is not None and isinstance(split, str) and split.lower() in SPLIT_NAMES:
        found.append((SPLIT_NAMES[split.lower()], loss))
    for key, of in _LOSS_KEYS.items():
        if key in said and (loss := _loss(said[key], None)) is not None:
            found.append((of, loss))
    return found


def _loss(value: object, nonfinite: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, str):
        return number(value)
    if value is None and isinstance(nonfinite, str):
        loss = number(nonfinite)
        return None if loss is None or math.isfinite(loss) else loss
    return None


def number(text: str) -> float | None:
    """A loss as programs print it, NaN and infinity too; None where the text is not a number."""
    try:
        return float(text) if len(text) <= 64 else None
    except ValueError:
        return None


def _step(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 0 <= value <= _STEP_LIMIT and value == value // 1 else None


def _epoch(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= _STEP_LIMIT else None


def _time(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            said = datetime.fromisoformat(value.replace("Z", "+00:00"))
            moment = (said if said.tzinfo else said.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, timezone.utc)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.year in _YEARS else None
