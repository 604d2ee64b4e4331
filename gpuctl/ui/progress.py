"""What a launch is doing and since when, on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from gpuctl.core.errors import LeftBehind
from gpuctl.core.text import safe, shorten
from gpuctl.ui.console import console, draws, unfailing
from gpuctl.ui.words import span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

REMIND_EVERY_S = 15.0
FEW_NOTES = 4
NOTES_SHOWN = 3
NOTES_OF_A_FAILURE = 20
UNDO = "undo"
"""The phase that removes what a failed launch made. It has failed itself only where something is left."""


class Phases:
    """The phases of something that takes a while. One is going on at a time; a new one ends the one before it.

    Whoever waits always sees which phase it is and since when: on a terminal by a spinner with the elapsed time, else
    by a line per phase and a reminder every 15 seconds. None of it raises: work does not stop because its progress
    cannot be shown.
    """

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        remind_every_s: float = REMIND_EVERY_S,
    ) -> None:
        self._console = console(unfailing(stream or sys.stderr))
        self._clock, self._remind_every_s = clock, remind_every_s
        self._began = self._since = clock()
        self._name, self._detail = "", ""
        self._notes: list[str] = []
        self._lock = threading.RLock()  # a signal handler may tell something in the middle of telling
        self._over = threading.Event()
        self._live: Live | None = None
        self._reminder: threading.Thread | None = None

    def __enter__(self) -> Phases:
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception), self._lock:
            undone = self._name == UNDO and not isinstance(error, LeftBehind)
            self._end_phase(failed=kind is not None and not undone)
        self._over.set()
        if self._reminder is not None:
            self._reminder.join()
        if self._live is not None:
            with suppress(Exception):
                self._live.stop()

    def phase(self, name: str, detail: str = "") -> None:
        """A phase begins; the one before it is done, or has failed where this one undoes it."""
        with suppress(Exception), self._lock:
            self._end_phase(failed=name == UNDO)
            self._name, self._detail, self._since, self._notes = safe(name), safe(detail), self._clock(), []
            if not draws(self._console):
                self._line(f"{self._name}: {self._detail}" if self._detail else self._name)
        with suppress(Exception):
            self._start_showing()

    def note(self, text: str) -> None:
        """Something worth a line within the phase."""
        with suppress(Exception), self._lock:
            if self._live is None:
                self._line(f"  {safe(text)}")
            else:
                self._notes = [*self._notes, safe(text)][-NOTES_OF_A_FAILURE:]

    def progress(self, text: str) -> None:
        """How far along the phase is: on a terminal, in the phase's line; elsewhere, with the next reminder."""
        with suppress(Exception), self._lock:
            self._detail = safe(text)

    def _start_showing(self) -> None:
        if draws(self._console):
            if self._live is None:
                from rich.live import Live

                self._live = Live(
                    get_renderable=self._spinning,
                    console=self._console,
                    refresh_per_second=10,
                    transient=True,
                    redirect_stdout=False,
                )
                self._live.start()
        elif self._reminder is None:
            self._reminder = threading.Thread(target=self._remind, name="phases", daemon=True)
            self._reminder.start()

    def _end_phase(self, *, failed: bool = False) -> None:
        """On a terminal, the phase becomes a line; its notes stay if they are few, and the last ones if it failed."""
        if self._name and self._live is not None:
            mark, style = ("✗", "bold red") if failed else ("✓", "green")
            self._console.print(self._phase_line(mark, style, span(self._clock() - self._since)))
            few = self._notes if len(self._notes) <= FEW_NOTES else []
            for note in self._notes[-NOTES_OF_A_FAILURE:] if failed else few:
                self._console.print(self._note_line(note))
        self._name = ""

    def _spinning(self) -> RenderableType:
        """What rich's own thread draws. It takes no lock: rich holds its own here, which printing takes under ours."""
        from rich.console import Group

        now, name, since = self._clock(), self._name, self._since
        if not name:
            return Group()
        elapsed = span(int(now - since)) if now - since >= 10 else f"{max(0, int(now - since))} s"
        line = self._phase_line("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(now * 10) % 10], "cyan", elapsed)
        return Group(line, *(self._note_line(note) for note in self._notes[-NOTES_SHOWN:]))

    def _phase_line(self, mark: str, style: str, time: str) -> Text:
        from rich.text import Text

        room = self._console.width - len(self._name) - len(time) - 7
        text = Text(no_wrap=True, overflow="crop").append(f"{mark} ", style).append(self._name, "bold")
        return text.append(f"  {shorten(self._detail, room)}", "dim").append(f"  {time}")

    def _note_line(self, note: str) -> Text:
        from rich.text import Text

        return Text(f"  {note}", style="dim", no_wrap=True, overflow="ellipsis")

    def _remind(self) -> None:
        while not self._over.wait(self._remind_every_s):
            with self._lock:
                since = self._clock() - self._since
                if self._name and since >= self._remind_every_s * 0.9:
                    detail = f", {self._detail}" if self._detail else ""
                    self._line(f"{self._name}: still going after {span(since)}{detail}")

    def _line(self, text: str) -> None:
        self._console.file.write(f"[{self._clock() - self._began:5.1f} s] {text}\n")
        self._console.file.flush()
