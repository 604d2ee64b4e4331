"""Whoever waits sees which phase it is and since when."""

from __future__ import annotations

import io
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gpuctl.core.errors import LeftBehind
from gpuctl.ui.progress import Phases

if TYPE_CHECKING:
    from tests.ui.conftest import Terminal


class Clock:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


def wait_for(stream: io.StringIO, text: str) -> None:
    """Until the text is there; fails after five seconds."""
    end = time.monotonic() + 5
    while text not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.005)


def test_in_a_pipe_each_phase_is_a_line_with_its_time() -> None:
    """One plain line a phase and a note, with the seconds since the beginning, safe to show."""
    pipe, clock = io.StringIO(), Clock()
    with Phases(stream=pipe, clock=clock) as phases:
        phases.phase("acquire", "g5.xlarge\x1b[2J, spot")
        clock.now += 3.25
        phases.note("i-1 is booting")
        phases.phase("start")
    assert pipe.getvalue().splitlines() == [
        "[  0.0 s] acquire: g5.xlarge, spot",
        "[  3.2 s]   i-1 is booting",
        "[  3.2 s] start",
    ]


def test_a_long_phase_reminds() -> None:
    """Where a phase takes long, a line says every so often which one and for how long already."""
    pipe, clock = io.StringIO(), Clock()
    with Phases(stream=pipe, clock=clock, remind_every_s=0.02) as phases:
        phases.phase("boot")
        clock.now += 75
        wait_for(pipe, "boot: still going after 1 min 15 s")
    assert not [t for t in threading.enumerate() if t.name == "phases"]


def test_how_far_a_phase_is_is_told_with_the_reminder(terminal: Terminal) -> None:
    """And on a terminal in the phase's own line, in the place of what stood there."""
    pipe, clock = io.StringIO(), Clock()
    with Phases(stream=pipe, clock=clock, remind_every_s=0.02) as phases:
        phases.phase("pull", "into home")
        phases.progress("3 of 9 files\x1b[2J")
        clock.now += 20
        wait_for(pipe, "pull: still going after 20 s, 3 of 9 files\n")
    with Phases(stream=terminal, clock=clock) as phases:
        phases.phase("pull", "into home")
        phases.progress("4 of 9 files")
        wait_for(terminal, "4 of 9 files")


def test_on_a_terminal_a_phase_lives(terminal: Terminal) -> None:
    """A spinner with the elapsed time, which becomes a line with a mark and the phase's time."""
    clock = Clock()
    with Phases(stream=terminal, clock=clock) as phases:
        phases.phase("provision", "a virtualenv with " + "many things " * 20)
        phases.note("looking at [red]torch[/red]")
        clock.now += 42
        wait_for(terminal, "42 s")
        phases.phase("start")
    assert "✓ provision  a virtualenv with many things" in terminal.text
    assert "…  42 s\n" in terminal.text
    assert "  looking at [red]torch[/red]\n" in terminal.text
    assert "✓ start" in terminal.text
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()))
    assert max(map(len, lines)) <= 80


def test_on_a_terminal_a_failure_shows_what_it_said(terminal: Terminal) -> None:
    """The phase that failed is marked, and its last notes stay."""
    with pytest.raises(RuntimeError), Phases(stream=terminal) as phases:
        phases.phase("plan")
        phases.phase("environment")
        for i in range(50):
            phases.note(f"pip says {i}")
        raise RuntimeError
    after = terminal.text.split("✗ environment")[1]
    assert "✓ plan" in terminal.text
    assert "pip says 49\n" in after
    assert "pip says 29\n" not in after


@pytest.mark.parametrize(("error", "mark"), [(RuntimeError("no"), "✓"), (LeftBehind("a host is left"), "✗")])
def test_a_failure_that_was_undone(terminal: Terminal, error: Exception, mark: str) -> None:
    """What failed has the cross; the undo has it only where something is left."""
    with pytest.raises(type(error)), Phases(stream=terminal) as phases:
        phases.phase("boot")
        phases.phase("undo", "removing everything")
        raise error
    assert "✗ boot" in terminal.text
    assert f"{mark} undo" in terminal.text


def test_telling_while_it_draws_never_hangs(terminal: Terminal) -> None:
    """Many phases while the spinner's own thread draws: no two locks wait for each other."""

    def work() -> None:
        with Phases(stream=terminal) as phases:
            for i in range(300):
                phases.phase(f"phase {i}")
                phases.note("note")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive()
