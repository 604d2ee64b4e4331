"""A run's log on this terminal: each line made safe, its losses highlighted, progress bars overwritten."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuctl.core.losses.reader import LogLine
from gpuctl.ui.console import draws, out

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LOSS_STYLE = "bold cyan"


class LogPrinter:
    """Prints the lines of a log as they come.

    On a terminal, a line such as a progress bar is overwritten in place, and `finish` ends one that is open. Elsewhere,
    only its last state is printed, and any state that holds a loss.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or out()
        self._draws = draws(self._console)
        self._standing: str | None = None
        self._partial = self._written = ""

    def show(self, *lines: LogLine) -> None:
        """Print lines."""
        for line in lines:
            if self._draws:
                self._on_terminal(line)
            else:
                self._plain(line)
        self._console.file.flush()

    def partial(self, text: str, *, overwrites: bool = False) -> None:
        """Show a line that has not ended (a prompt): on a terminal at once, elsewhere once it stands still, and not
        where it overwrites another (a progress bar)."""
        if self._draws:
            if text and text != self._standing:
                self._on_terminal(LogLine(text, transient=True))
        elif text and not overwrites and text == self._partial and text.startswith(self._written):
            self._console.file.write(text[len(self._written) :])
            self._written = text
        self._partial = text
        self._console.file.flush()

    def finish(self) -> None:
        """Leave the cursor at the beginning of a line."""
        if self._written or (self._standing is not None and self._draws):
            self._console.file.write("\n")
            self._console.file.flush()
        self._standing, self._partial, self._written = None, "", ""

    def _on_terminal(self, line: LogLine) -> None:
        if self._standing is not None:
            self._console.file.write("\r\x1b[2K")
        if line.transient:
            self._console.print(marked_text(line), end="", no_wrap=True, overflow="crop", crop=True)
            self._standing = line.text
            return
        self._standing = None
        if line.spans:
            self._console.print(marked_text(line), soft_wrap=True)
        else:
            self._console.file.write(line.text + "\n")

    def _plain(self, line: LogLine) -> None:
        if written := self._written:
            self._written = ""
            ends_it = line.text.startswith(written)
            self._console.file.write((line.text[len(written) :] if ends_it else "") + "\n")
            if ends_it:
                self._standing = line.text if line.transient else None
                return
        if line.transient:
            if line.points:
                self._console.file.write(line.text + "\n")
                self._standing = line.text
            return
        if line.text != self._standing:
            self._console.file.write(line.text + "\n")
        self._standing = None


def of_host(line: LogLine, number: int) -> LogLine:
    """The line, prefixed with the number of the host that it came from."""
    before = f"[{number}] "
    spans = tuple((start + len(before), end + len(before)) for start, end in line.spans)
    return replace(line, text=before + line.text, spans=spans)


def marked_text(line: LogLine) -> Text:
    """A line with its losses highlighted."""
    from rich.text import Text

    text = Text(line.text)
    for start, end in line.spans:
        text.stylize(LOSS_STYLE, start, end)
    return text
