"""What is here already of a run's log: all of its losses, its last lines, and neither costs more than it must."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import cast

import pytest

from gpuctl.aws.account import Account
from gpuctl.cli.following import LossReminder, last_of
from gpuctl.core.losses.points import Point
from gpuctl.core.losses.reader import LogLine
from gpuctl.core.profile import Profile
from gpuctl.state.runs import run_folder
from gpuctl.workflows.follow import FIRST_SIZE, Follower, Reads
from gpuctl.workflows.hosts import RunHandle

NOISE = b"2026-11-28 12:00:00 INFO saved a part of the data set\n"
LOG = b"iter 1: loss 3.0, time 1ms\n" + NOISE * 200_000 + b"iter 2: loss 2.0, time 1ms\nlast\nhalf a li"


def run_with(tmp_path: Path, log: bytes) -> RunHandle:
    """A run of which so much is here; nobody asks its cloud."""
    run = RunHandle("r", cast(Profile, None), cast(Account, None), run_folder(tmp_path, "r"))
    run.kept.log.parent.mkdir(parents=True)
    run.kept.log.write_bytes(log)
    return run


def test_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    """They come at once, marked as they are elsewhere, and the next bytes end the line that was not whole."""
    follower = Follower(run_with(tmp_path, LOG))
    began = time.process_time()
    lines = follower.last_lines(2)
    assert time.process_time() - began < 2
    assert [line.text for line in lines] == ["iter 2: loss 2.0, time 1ms", "last"]
    assert lines[0].points == (Point(2, None, "train", 2.0),)
    assert [line.text for line in follower.losses.log.feed(b"ne\n")] == ["half a line"]
    assert follower._log.sha256 == hashlib.sha256(LOG).hexdigest()


@pytest.mark.parametrize("reads", ["lines", "points"])
def test_all_losses_of_a_long_log(tmp_path: Path, reads: Reads) -> None:
    """However few of its lines are wanted, no loss is left out."""
    follower = Follower(run_with(tmp_path, LOG), reads=reads)
    began = time.process_time()
    lines = follower.history(1)
    assert time.process_time() - began < 3
    assert [line.text for line in lines] == (["last"] if reads == "lines" else [])
    assert [point.step for point in follower.losses.points] == [1, 2]


def test_a_line_that_the_first_part_cuts_is_not_joined_to_a_later_one(tmp_path: Path) -> None:
    """Where lines between are left out, nothing of them comes before the next."""
    log = b"x" * (FIRST_SIZE - 5) + b"\n" + b"y" * FIRST_SIZE + b"\n" + NOISE * 30_000
    assert [line.text for line in Follower(run_with(tmp_path, log)).last_lines(1)] == [NOISE.decode().strip()]


def test_of_a_progress_bar_the_last_state_is_a_line() -> None:
    """States that were written over are no lines, unless one holds a loss."""
    point = Point(1, None, "train", 1.0)
    bar = [LogLine(f"{i}%", transient=True) for i in range(50)]
    shown = last_of([LogLine("a"), LogLine("b"), *bar, LogLine("loss", (point,), transient=True), LogLine("end")], 3)
    assert [line.text for line in shown] == ["b", "loss", "end"]
    assert last_of(bar, 0) == last_of([], 5) == []


@pytest.mark.parametrize(
    ("log", "waits_s", "said"),
    [(b"working\n", 31, True), (b"working\n", 29, False), (b"", 31, False), (b"loss: 0.5\n", 31, False)],
)
def test_a_training_without_losses_is_told_of_once(tmp_path: Path, log: bytes, waits_s: float, said: bool) -> None:
    """After half a minute in which lines came and none held a loss."""
    clock = [100.0]
    reminder = LossReminder(lambda: clock[0])
    follower = Follower(run_with(tmp_path, log))
    follower.last_lines(5)
    clock[0] += waits_s
    assert [reminder.due([follower]), reminder.due([follower])] == [said, False]


def test_nothing_is_said_of_losses_that_were_not_looked_for(tmp_path: Path) -> None:
    """Where a part of the log was left out, or there is a metrics file, nobody knows that there is no loss."""
    run = run_with(tmp_path, NOISE * 60_000)
    follower = Follower(run)
    follower.last_lines(5)
    assert not follower.no_losses
    run.kept.log.write_bytes(NOISE)
    run.kept.metrics.write_bytes(b'{"loss": 1}\n')
    follower = Follower(run)
    follower.last_lines(5)
    assert not follower.no_losses
