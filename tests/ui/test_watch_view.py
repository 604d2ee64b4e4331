"""The live view of a run: plot, last losses, rate, cost, lease, log."""

from __future__ import annotations

import io
import math
import os
import signal
import termios
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuctl.core.host_state import Gpu, HostState
from gpuctl.core.losses.points import Point, Split
from gpuctl.core.losses.reader import LossReader
from gpuctl.ui.keys import leaves_on_q
from gpuctl.ui.plot import plot, shown_splits
from gpuctl.ui.watch import WatchView

if TYPE_CHECKING:
    from tests.ui.conftest import Terminal

NOW = datetime(2026, 11, 25, 2, 30, tzinfo=timezone.utc)


class Now:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        """The time."""
        return self.time


def run_of(splits: tuple[Split, ...] = ("train", "val"), steps: int = 1000) -> list[Point]:
    """A run whose losses fall from 4.2 to 1.4."""
    points = []
    for step in range(0, steps, 10):
        loss = 1.4 + 2.8 * math.exp(-step / 200)
        points.append(Point(step, step / 500, "train", loss))
        points.extend(Point(step, step / 500, s, loss + 0.1) for s in splits[1:] if step % 100 == 0)
    return points


def view_of(stream: io.StringIO, now: Now | None = None) -> WatchView:
    """A view of a run that has cost money for an hour and trained for half of it."""
    return WatchView(
        "char-rnn-k3f9",
        price_usd_per_hour=Decimal("0.5"),
        started=NOW - timedelta(hours=1),
        training_since=NOW - timedelta(minutes=30),
        lease_ends=NOW + timedelta(hours=3, minutes=20),
        stream=stream,
        now=now or Now(),
    )


def test_on_a_terminal_everything_is_there(terminal: Terminal) -> None:
    """State, times, money, lease, GPU, last losses, the plot, and the log's last lines."""
    log = LossReader().feed(b"".join(b"line %d\n" % i for i in range(20)) + b"step 9: train loss 1.5, val loss 1.6\n")
    gpu = Gpu("NVIDIA A10G", utilization_percent=97, memory_used_mib=3072, memory_total_mib=23552)
    with view_of(terminal) as view:
        view.update(points=run_of(), lines=log, state=HostState("running"))
        view.update(gpus=(gpu,))
    frame = terminal.text
    for part in (
        "char-rnn-k3f9  running",
        "30 min 00 s of training",
        "$0.50 so far ($0.500/h)",
        "lease ends in 3 h 20 min",
        "NVIDIA A10G 97%, 3.0 of 23.0 GiB",
        "train 1.4198 (step 990, epoch 1.98)",
        "validation 1.5311 (step 900, epoch 1.80)",
        "┌───",
        "●",
        "line 19",
        "step 9: train loss 1.5, val loss 1.6",
    ):
        assert part in frame, part
    assert "line 14" not in frame


@pytest.mark.parametrize("columns", [60, 100, 200])
@pytest.mark.parametrize("rows", [12, 24, 50])
def test_it_fits_its_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> None:
    """At any size no line is wider than the terminal, and the view is not higher than it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(rows))
    long = LossReader().feed(("a long line\twith tabs and 漢字 " * 20 + "\n").encode() * 8)
    with view_of(terminal) as view:
        view.update(points=run_of(), lines=long, notice="the connection was lost; trying again")
        rendered = view._console.render_lines(view.render(), pad=False)
    assert len(rendered) <= rows
    assert all(sum(segment.cell_length for segment in line) <= columns for line in rendered)


def test_elsewhere_it_is_a_line_now_and_then() -> None:
    """Not on a terminal: a line at first, one every few seconds where there is something new, one at the end."""
    pipe, now = io.StringIO(), Now()
    points = run_of()
    with view_of(pipe, now) as view:
        view.update()
        for count in range(2, 102, 2):
            now.time += timedelta(seconds=0.25)
            view.update(points=points[:count])
        view.update(notice="lost the host\x1b[2J; trying again")
        view.update(state=HostState("failed", 1), points=points)
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 1 + 2 + 1 + 1
    assert lines[0].startswith("char-rnn-k3f9  running  train 4.2000 (step 0, epoch 0.00)  val 4.3000")
    assert lines[-2] == "char-rnn-k3f9  lost the host; trying again"
    assert lines[-1].startswith("char-rnn-k3f9  failed, exit code 1  train 1.4198")


def test_a_run_without_losses_says_so() -> None:
    """Where nothing gives a loss the view is not empty."""
    pipe = io.StringIO()
    with view_of(pipe) as view:
        view.update(points=[])
    assert "no losses yet" in pipe.getvalue()


def test_the_rate_comes_from_the_points_own_times(terminal: Terminal) -> None:
    """Points that carry times give the rate at once; steps take seconds where they are slow."""
    fast = [Point(i * 10, None, "train", 2.0, None, NOW + timedelta(seconds=i)) for i in range(5)]
    slow = [Point(i, None, "train", 2.0, None, NOW + timedelta(seconds=4 * i)) for i in range(5)]
    epochs = [Point(None, i / 10, "train", 2.0, None, NOW + timedelta(seconds=6 * i)) for i in range(5)]
    for points, rate in ((fast, "10 steps/s"), (slow, "4 s/step"), (epochs, "1 epochs/min")):
        with view_of(terminal) as view:
            view.update(points=points)
        assert rate in terminal.text


def test_the_rate_comes_from_arrivals_else() -> None:
    """Without times of their own, what came at once says nothing, and what comes after it says how fast."""
    pipe, now = io.StringIO(), Now()
    points = [Point(i, None, "train", 2.0) for i in range(0, 200, 10)]
    with view_of(pipe, now) as view:
        view.update(points=points[:10])
        now.time += timedelta(seconds=5)
        view.update(points=points)
    first, second = pipe.getvalue().splitlines()
    assert "steps/s" not in first
    assert "20 steps/s" in second


def test_training_time_stands_still_once_it_has_ended() -> None:
    """A view that stays open tells how long the training took, not how long ago it began."""
    pipe, now = io.StringIO(), Now()
    view = view_of(pipe, now)
    view.update(state=HostState("succeeded", 0, started=NOW - timedelta(minutes=30), ended=NOW))
    now.time += timedelta(hours=5)
    assert "30 min 00 s of training" in view._facts()
    assert "$3.00 so far ($0.500/h)" in view._facts()


def test_what_arrives_after_a_lost_connection_says_nothing_of_the_speed() -> None:
    """What was made meanwhile comes at once: the rate is measured anew, from what comes after it."""
    now = Now()
    view = view_of(io.StringIO(), now)
    points = [Point(i, None, "train", 2.0) for i in range(0, 30_000, 10)]
    view.update(points=points[:10])
    now.time += timedelta(seconds=40)
    view.update(notice="lost", lost=True)
    for count in (1000, 2000, 2900):
        now.time += timedelta(seconds=0.1)
        view.update(points=points[:count], notice="")
        assert view._rate.text == ""
    now.time += timedelta(seconds=9.8)
    view.update(points=points[:2920])
    assert view._rate.text == "20 steps/s"


def test_a_terminal_that_cannot_draw_gets_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """On TERM=dumb there are the lines of a pipe, and no escape."""
    monkeypatch.setenv("TERM", "dumb")
    with view_of(terminal) as view:
        view.update(points=run_of())
    assert "train 1.4198" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_the_view_has_the_screen_to_itself_and_its_last_state_stays(terminal: Terminal) -> None:
    """Drawn on the alternate screen, which a resize leaves clean; what was last shown is there afterwards."""
    with view_of(terminal) as view:
        view.update(points=run_of())
    assert terminal.getvalue().count("\x1b[?1049h") == 1
    after = terminal.getvalue().split("\x1b[?1049l")[1]
    assert "char-rnn-k3f9" in after and "┌───" in after


@pytest.mark.parametrize("key", [b"q", b"xQ"])
def test_q_leaves(key: bytes) -> None:
    """It does what Ctrl-C does, and the keyboard is as it was before."""
    keyboard, there = os.openpty()
    as_it_was = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        before = termios.tcgetattr(there)
        with pytest.raises(KeyboardInterrupt), leaves_on_q(there):
            os.write(keyboard, key)
            time.sleep(10)
        with leaves_on_q(there):
            pass
        assert termios.tcgetattr(there) == before
    finally:
        signal.signal(signal.SIGINT, as_it_was)
        os.close(keyboard)
        os.close(there)


def test_test_stands_in_for_validation(terminal: Terminal) -> None:
    """A run that has no validation loss shows its test loss in that place; one that has both plots validation."""
    assert shown_splits(run_of(("train", "test"))) == ["train", "test"]
    assert shown_splits(run_of(("train", "val", "test"))) == ["train", "val"]
    with view_of(terminal) as view:
        view.update(points=run_of(("train", "test")))
    assert "validation (test set) 1.5311" in terminal.text
    assert "▲" in terminal.text


def test_losses_that_are_not_numbers_show(terminal: Terminal) -> None:
    """A run whose loss became NaN says nan, and its plot is of what came before."""
    with view_of(terminal) as view:
        view.update(points=[*run_of(), Point(2000, 4.0, "train", None, "nan")])
    assert "train nan (step 2,000, epoch 4.00)" in terminal.text
    assert "┌───" in terminal.text


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_points_can_be_plotted(count: int) -> None:
    """The first point has a plot too."""
    drawn = plot([Point(i, None, "train", 2.0) for i in range(count)], width=60, height=10).plain
    assert len(drawn.splitlines()) == 10
    assert "step" in drawn


@pytest.mark.parametrize(
    "points",
    [
        [Point(i, None, "train", (-1) ** i * 1.7e308) for i in range(10)],
        [Point(0, None, "train", 1.7e308)],
        [Point(0, None, "train", 1.7e308), Point(1, None, "train", 1.0), Point(2, None, "val", 5e-324)],
        [Point(i, None, "train", 1e-308 * i) for i in range(5)],
        [Point(999_999_999_999_999, None, "train", 1e308)],
        [Point(None, 5e-324, "train", 1.0), Point(None, 1e-323, "train", 1.0)],
        [Point(i, None, "train", 2.0 + i * 4e-16) for i in range(3)],
        [Point(i, None, "train", 1.7e300 + i * 1e284) for i in range(3)],
        [Point(2**53, 5e-324, "train", 1.0), Point(None, 2.0**53, "val", 1.0)],
    ],
)
def test_any_loss_can_be_plotted(points: list[Point]) -> None:
    """The largest and the smallest numbers there are, as losses or as places, still give a plot that fits."""
    lines = plot(points, width=60, height=10, unicode=False).plain.splitlines()
    assert len(lines) == 10 and all(len(line) <= 60 for line in lines)
    assert any(mark in line for line in lines[:-2] for mark in ".o")
    assert "|" in lines[1]


def test_the_axis_has_round_numbers() -> None:
    """Ticks stand at round numbers of steps, or of epochs where there are no steps."""
    assert " 0" in plot(run_of(steps=24_000), width=80, height=12).plain.splitlines()[-2]
    assert "10k" in plot(run_of(steps=24_000), width=80, height=12).plain
    epochs = [Point(None, i / 4, "train", 2.0 + i) for i in range(9)]
    assert "epoch" in plot(epochs, width=60, height=12).plain


def test_losses_over_decades_have_a_logarithmic_scale() -> None:
    """Each power of ten is as high as any other and has its number; what falls to a tenth has round numbers."""
    over_decades = plot([Point(i, None, "train", 40.0 / i) for i in range(1, 1000)], width=60, height=11).plain
    assert "logarithmic" in over_decades
    rows = over_decades.splitlines()
    tens = [next(i for i, row in enumerate(rows) if row.split("┤")[0].strip() == ten) for ten in ("10", "1", "0.1")]
    assert tens[2] - tens[1] == pytest.approx(tens[1] - tens[0], abs=1)
    usual = plot([Point(i, None, "train", 4.0 / i) for i in range(1, 10)], width=60, height=12).plain
    assert "logarithmic" not in usual and [f"{n}┤" in usual for n in (4, 3, 2, 1)] == [True] * 4


def test_a_plain_terminal_gets_plain_characters() -> None:
    """Without Unicode the plot is ASCII."""
    assert plot(run_of(), width=60, height=12, unicode=False).plain.isascii()
