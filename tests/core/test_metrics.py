"""The metrics file: what a program writes into it, and what is made of it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.losses.points import (
    Point,
    downsample,
    last_by_split,
    parse_metrics_line,
    point_row,
    positions,
    thin,
)
from gpuctl.core.losses.sources import MetricsSource


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"step": 120, "epoch": 0.4, "split": "train", "loss": 1.93}', [Point(120, 0.4, "train", 1.93)]),
        ('{"step": 120.0, "split": "validation", "loss": 2}', [Point(120, None, "val", 2.0)]),
        ('{"loss": 2.5}', [Point(None, None, "train", 2.5)]),
        (
            '{"step": 3, "train_loss": 1.5, "val_loss": 1.75, "test_loss": null}',
            [Point(3, None, "train", 1.5), Point(3, None, "val", 1.75)],
        ),
        ('{"epoch": 1, "eval_loss": 0.5}', [Point(None, 1.0, "val", 0.5)]),
        ('{"step": 1, "loss": NaN}', [Point(1, None, "train", None, "nan")]),
        ('{"step": 1, "loss": -Infinity}', [Point(1, None, "train", None, "-inf")]),
        ('{"step": 1, "loss": null, "nonfinite": "inf"}', [Point(1, None, "train", None, "inf")]),
        ('{"step": 1, "loss": "nan"}', [Point(1, None, "train", None, "nan")]),
        ('{"step": -1, "epoch": "two", "loss": 1}', [Point(None, None, "train", 1.0)]),
        ('{"step": 1e400, "loss": 1}', [Point(None, None, "train", 1.0)]),
        ('{"loss": 1' + "0" * 400 + "}", []),
        ('{"loss": true}', []),
        ('{"split": "generator", "loss": 1}', []),
        ('{"split": ["train"], "loss": 1}', []),
        ('{"accuracy": 1}', []),
        ("[1, 2]", []),
        ("not json", []),
        ("[" * 50_000, []),
        ("", []),
    ],
)
def test_one_line(line: str, found: list[Point]) -> None:
    """Each line gives the points that it holds, or none."""
    assert parse_metrics_line(line.encode()) == found


def test_times() -> None:
    """A time is seconds since the epoch or ISO 8601, and one that is neither is left out."""
    moment = datetime(2026, 11, 25, 2, 30, tzinfo=timezone.utc)
    for time in (moment.timestamp(), "2026-11-25T02:30:00Z", "2026-11-25T03:30:00+01:00", "2026-11-25T02:30:00"):
        assert parse_metrics_line(json.dumps({"loss": 1, "time": time}).encode())[0].time == moment
    for time in (1e300, "soon", True, [1], float("nan"), 253402300799.9, -62135596800, "9999-12-31T23:59:59Z", 10**400):
        assert parse_metrics_line(json.dumps({"loss": 1, "time": time}).encode())[0].time is None


@given(st.binary())
def test_any_bytes_are_read(data: bytes) -> None:
    """No bytes make the reader fail."""
    assert isinstance(parse_metrics_line(data), list)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v), max_leaves=3
)


@given(st.dictionaries(st.sampled_from(["step", "epoch", "split", "loss", "time", "val_loss", "nonfinite"]), _VALUES))
def test_any_json_gives_points_that_can_be_printed(said: dict[str, object]) -> None:
    """Whatever the values, what comes out is strict JSON again, and reads back as the same point."""
    for point in parse_metrics_line(json.dumps(said).encode()):
        line = json.dumps(point_row(point), allow_nan=False)
        assert parse_metrics_line(line.encode()) == [point]


def test_json_says_what_was_not_finite() -> None:
    """A loss that is not finite is null, with what it was; a finite one has no such key."""
    moment = datetime(2026, 11, 25, 2, 30, tzinfo=timezone.utc)
    assert point_row(Point(1, None, "val", None, "nan")) == {
        "step": 1, "epoch": None, "split": "val", "loss": None, "time": None, "nonfinite": "nan",
    }  # fmt: skip
    assert point_row(Point(1, 0.5, "val", 2.0, None, moment)) == {
        "step": 1, "epoch": 0.5, "split": "val", "loss": 2.0, "time": "2026-11-25T02:30:00Z",
    }  # fmt: skip


def test_a_line_without_end_costs_no_more_than_its_bytes() -> None:
    """What is no line is forgotten once it is too long to be one; the line after it counts."""
    source = MetricsSource()
    began = process_time()
    for _ in range(1000):
        source.feed(b"x" * 65536)
    assert source.feed(b'\n{"loss": 1}\n{"lo') == [Point(None, None, "train", 1.0)]
    assert source.feed(b'ss": 2}\n') == [Point(None, None, "train", 2.0)]
    assert process_time() - began < 2


def test_the_newest_of_each_split() -> None:
    """Of each split the last point that was told counts."""
    points = [Point(1, None, "train", 3.0), Point(1, None, "val", 3.1), Point(2, None, "train", 2.0)]
    assert last_by_split(points) == {"train": points[2], "val": points[1]}


@given(
    st.lists(st.builds(Point, st.integers(0, 9), st.none(), st.sampled_from(["train", "val"]), st.floats(0, 9))),
    st.integers(4, 50),
)
def test_fewer_points_keep_the_ends_and_the_extremes(points: list[Point], n: int) -> None:
    """At most n points are kept, in order, among them each split's first, last, lowest and highest."""
    kept = downsample(points, n)
    assert len(kept) <= max(n, 4)
    assert [p for p in points if any(p is k for k in kept)] == kept
    for split in ("train", "val"):
        before, after = ([p for p in some if p.split == split] for some in (points, kept))
        if before:
            assert (before[0], before[-1]) == (after[0], after[-1])


def test_a_spike_survives() -> None:
    """One bad loss among ten thousand is still there among a hundred."""
    points = [Point(i, None, "train", 1.0) for i in range(10_000)]
    points[5_001] = Point(5_001, None, "train", 99.0)
    points[7_001] = Point(7_001, None, "train", None, "nan")
    kept = downsample(points, 100)
    assert points[5_001] in kept
    assert points[7_001] in kept


def test_a_few_points_beside_many_are_kept_whole() -> None:
    """However often: a hundred validations among two hundred thousand steps are what a person looks for."""
    points: list[Point] = []
    for step in range(20_000):
        points.append(Point(step, None, "train", 1.0))
        if step % 200 == 0:
            points.append(Point(step, None, "val", 5.0 - step / 1e4))
        thin(points, 1000)
    assert [found.step for found in points if found.split == "val"] == list(range(0, 20_000, 200))
    assert len(points) <= 1000 and points[0].step == 0


def test_where_points_stand() -> None:
    """Steps where there are any, a point with its epoch alone put among them; else epochs; else their order."""
    lua = [Point(100, 0.5, "train", 2.0), Point(None, 1.0, "val", 2.1), Point(200, 1.0, "train", 1.9)]
    assert positions(lua) == ("step", [100.0, 200.0, 200.0])
    mnist = [Point(None, 0.5, "train", 2.0), Point(None, None, "test", 2.1)]
    assert positions(mnist) == ("epoch", [0.5, 0.5])
    assert positions([Point(None, None, "train", 2.0)] * 2) == ("point", [0.0, 1.0])
