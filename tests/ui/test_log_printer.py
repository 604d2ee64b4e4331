"""A log on the screen: safe, losses marked, progress bars written over."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest

from gpuctl.cli.following import follow_log
from gpuctl.core.host_state import HostState
from gpuctl.core.losses.reader import LogLine, LossReader
from gpuctl.core.losses.sources import Losses
from gpuctl.ui.console import console
from gpuctl.ui.log import LogPrinter
from gpuctl.workflows import follow, hosts
from gpuctl.workflows.follow import Update

if TYPE_CHECKING:
    from tests.ui.conftest import Terminal


def lines(data: bytes) -> list[LogLine]:
    """The lines of a whole log."""
    reader = LossReader()
    return reader.feed(data) + reader.finish()


def test_losses_stand_out_on_a_terminal(terminal: Terminal) -> None:
    """The numbers of the losses are in another style than the rest of the line."""
    LogPrinter(console(terminal)).show(*lines(b"step 5: train loss 1.5, val loss 2.5\nplain\n"))
    assert terminal.text == "step 5: train loss 1.5, val loss 2.5\nplain\n"
    first, second = terminal.getvalue().splitlines()
    assert first.count("\x1b[1;36m1.5\x1b[0m") == 1
    assert first.count("\x1b[1;36m2.5\x1b[0m") == 1
    assert "\x1b" not in second


def test_nothing_hostile_reaches_the_terminal(terminal: Terminal) -> None:
    """Escapes are gone, markup and emoji names are text."""
    LogPrinter(console(terminal)).show(*lines(b"\x1b]0;owned\x07\x1b[2J[bold]x[/bold] :smile: \x9b31m\n"))
    assert terminal.getvalue() == "[bold]x[/bold] :smile: \ufffd31m\n"


def test_a_progress_bar_is_written_over(terminal: Terminal) -> None:
    """Each state of a bar replaces the one before it; a long one is cut, so that it stays one line."""
    printer = LogPrinter(console(terminal))
    printer.show(*lines(b"\r 10%|" + b"#" * 200 + b"\r100%|##\nafter\n"))
    assert terminal.text == " 10%|" + "#" * 75 + "\r\x1b[2K100%|##\nafter\n"


def test_a_bar_that_still_stands_is_ended(terminal: Terminal) -> None:
    """What comes after the log does not land behind a progress bar."""
    printer = LogPrinter(console(terminal))
    printer.show(*LossReader().feed(b"bar\r"))
    printer.finish()
    assert terminal.text == "bar\n"


def test_in_a_pipe_a_bar_leaves_its_last_state() -> None:
    """Elsewhere than on a terminal there are whole lines alone, and no loss is left out or doubled."""
    pipe = io.StringIO()
    log = b"\r10%\r99%\nstep 1: train loss 1, val loss 2\r\nstep 2: train loss 1, val loss 2\rnext\n"
    LogPrinter(console(pipe)).show(*lines(log))
    assert pipe.getvalue().splitlines() == [
        "99%",
        "step 1: train loss 1, val loss 2",
        "step 2: train loss 1, val loss 2",
        "next",
    ]


def test_an_encoding_that_cannot_write_it_does_not_end_the_command() -> None:
    """On a terminal or pipe in ASCII, other characters become question marks."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    LogPrinter(console(stream)).show(*lines("naïve ☃\n".encode()))
    assert raw.getvalue() == b"na?ve ?\n"


def test_a_prompt_is_seen_before_its_line_ends(terminal: Terminal) -> None:
    """On a terminal a line without an end stands there at once, and what is added to it takes its place."""
    printer, reader = LogPrinter(console(terminal)), LossReader()
    for data in (b"Enter your cho", b"ice: ", b"2\n"):
        printer.show(*reader.feed(data))
        printer.partial(reader.partial)
    over = "\r\x1b[2K"
    assert terminal.text == f"Enter your cho{over}Enter your choice: {over}Enter your choice: 2\n"


def test_in_a_pipe_a_prompt_is_seen_once_it_stands_still() -> None:
    """Elsewhere it is shown when nothing was added to it meanwhile; in the end each line is there once."""
    pipe, reader = io.StringIO(), LossReader()
    printer = LogPrinter(console(pipe))
    seen = []
    for data in (
        b"a\n",
        b"...",
        b"..",
        b"",
        b"",
        b".",
        b"",
        b" done\n",
        b"\r 1%",
        b"\r 2%",
        b"\n\x1b[1",
        b"",
        b"mx",
        b"",
        b"\ry\n",
    ):
        printer.show(*reader.feed(data))
        printer.partial(reader.partial)
        seen.append(pipe.getvalue())
    assert seen[2:7] == ["a\n", "a\n.....", "a\n.....", "a\n.....", "a\n......"]
    assert seen[7] == "a\n...... done\n"
    assert seen[11] == "a\n...... done\n 2%\n"
    printer.finish()
    assert pipe.getvalue() == "a\n...... done\n 2%\nx\ny\n"


@pytest.mark.parametrize("skimmed", [False, True])
def test_in_a_pipe_a_slow_progress_bar_leaves_its_last_state(skimmed: bool) -> None:
    """However long each state stands still; a prompt after it is seen."""
    pipe, reader = io.StringIO(), LossReader()
    printer = LogPrinter(console(pipe))
    if skimmed:
        reader.skim(b"before\n\r 0%\r")
    for data in (b"\r 1%", b"", b"", b"\r 2%", b"", b"\r 3%", b"", b"\n", b"name? ", b""):
        printer.show(*reader.feed(data))
        printer.partial(reader.partial, overwrites=reader.overwrites)
    assert pipe.getvalue() == " 3%\nname? "


class Came:
    """A follower to which news of the metrics comes between the pieces of the log."""

    def __init__(self, run: object) -> None:
        self.losses, self.no_losses = Losses(), False

    def history(self) -> list[LogLine]:
        """Nothing is here yet."""
        return []

    def updates(self, **_: object) -> Iterator[Update]:
        """Half a line, news of the metrics, the other half."""
        yield Update(lines=tuple(self.losses.log.feed(b"half ")))
        yield Update(of_log=False)
        yield Update(lines=tuple(self.losses.log.feed(b"\rwhole\n")))
        yield Update(ended=HostState("succeeded", 0))


def test_news_of_the_metrics_are_no_pause_of_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that is being written meanwhile is not shown half."""
    monkeypatch.setattr(follow, "Follower", Came)
    monkeypatch.setattr(hosts, "hosts_known", lambda run: [run])
    assert follow_log(cast("hosts.RunHandle", None), lines=None) == HostState("succeeded", 0)
    assert capsys.readouterr().out == "whole\n"


def nested(epochs: int, batches: int) -> bytes:
    """What tqdm writes for a bar of batches (`position=1, leave=False`) below one of epochs."""
    log = b"\repoch:   0%|   | 0/2 [00:00<?, ?it/s]"
    for epoch in range(epochs):
        for batch in range(batches + 1):
            log += b"\n\rbatch: %3d%%|## | [00:00<00:00, 9.1it/s]\x1b[A" % (100 * batch // batches)
        log += b"\n\r        \r\x1b[A"
        log += b"\repoch: %3d%%|## | [00:00<00:00, 2.00s/it]" % (100 * (epoch + 1) // epochs)
    return log + b"\repoch: 100%|###| 2/2 [00:00<00:00, 2.00s/it]\nafter\nand on\n"


def test_nested_bars_are_written_over(terminal: Terminal) -> None:
    """A bar below another moves the cursor down and up again with each step, which is not a line each."""
    printer = LogPrinter(console(terminal))
    printer.show(*lines(nested(2, 50)))
    kept = [line.rsplit("\x1b[2K")[-1] for line in terminal.text.splitlines(keepends=True) if line.endswith("\n")]
    starts = [line.rsplit("\r")[-1].rsplit("K")[-1][:11].strip() for line in kept]
    assert starts == ["epoch:   0%", "epoch: 100%", "after", "and on"]
    pipe = io.StringIO()
    LogPrinter(console(pipe)).show(*lines(nested(2, 50)))
    assert [line[:11] for line in pipe.getvalue().splitlines()] == starts
    written = lines(b"\n\rbatch:  50%|# | 9.1it/s\x1b[A\n\r     \r\x1b[A\r     \rsaved\n")  # by tqdm.write
    assert [line.text for line in written if not line.transient] == ["", "saved"]
