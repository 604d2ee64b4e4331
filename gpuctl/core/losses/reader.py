"""Losses out of a log: bytes in as they come, lines that are safe to show and the points they hold out.

Everything here is hostile input. Any bytes give lines and points, never an exception, and how the bytes were cut into
pieces on their way changes nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from gpuctl.core.losses.formats import FORMATS, LOSS_GROUPS, Context, LogFormat, job_format, whole
from gpuctl.core.losses.loose import LOOSE, LOOSE_FORMATS
from gpuctl.core.losses.points import Point, Split
from gpuctl.core.text import safe

HEAD_BYTES = 4096
TAIL_BYTES = 1024
"""Of a line that is longer than both together, only its beginning and its end are kept."""

MATCH_LIMIT = 1000
"""A line of more characters gives no point, so that no pattern takes long on a hostile line."""

MOST_FIELDS = 16
"""So many fields of a line are looked at for its losses."""

_ENDS = re.compile(rb"[\r\n]")
_UP = b"\x1b[A"
_BAR = re.compile(r"\d%\||\d(?:it/s|s/it)")
"""What tqdm writes: https://github.com/tqdm/tqdm#documentation, `bar_format`."""
_MOST_RAISED = 32


@dataclass(frozen=True)
class LogLine:
    """One line of a log: its text, safe to show, the points it gave, and where in the text their losses stand.

    `transient`: the line ended in a carriage return, so that what comes next is written over it (a progress bar).
    """

    text: str
    points: tuple[Point, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    transient: bool = False


class LossReader:
    """Reads one log. With a job's own pattern only that is looked for, else the formats of the table.

    The format that gives the first point of a split is that split's source from then on: what looks like a loss in
    another format later (a sample, a quoted log) gives none. Only a loose format gives way to a known one.
    """

    def __init__(
        self, pattern: str | None = None, *, formats: Sequence[LogFormat] = (*FORMATS, *LOOSE_FORMATS)
    ) -> None:
        self._formats = tuple(formats) if pattern is None else (job_format(pattern),)
        self._sources: dict[Split, str] = {}
        self._contexts: dict[str, Context] = defaultdict(Context)
        self._hints = tuple(sorted({one.hint.encode() for one in self._formats}))
        self._newest: LogFormat | None = None
        self._line = _Line()
        self._written_over = ""
        self._overwrites = False
        self._raised = 0

    @property
    def partial(self) -> str:
        """What stands of a line that has not ended (a prompt, dots); empty while it ends inside a character."""
        text = self._line.text()
        return "" if "\ufffd" in text or "␛" in text else text

    @property
    def overwrites(self) -> bool:
        """True where the line that has not ended began after a carriage return: a progress bar's newest state."""
        return self._overwrites

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that these bytes end, in order."""
        lines: list[LogLine] = []
        start = 0
        for end in _ENDS.finditer(data):
            self._line.add(data[start : end.start()])
            start = end.end()
            self._overwrites = self._goes_down() if end[0] == b"\n" else self._goes_back()
            lines.extend(self._returned() if self._overwrites else self._ended())
        self._line.add(data[start:])
        return lines

    def skim(self, data: bytes) -> list[Point]:
        """The points of the lines that these bytes end: those of `feed`, without the lines, so much sooner."""
        ended = data.rfind(b"\n") + 1 or data.rfind(b"\r") + 1
        first = _ENDS.search(data) if self._line and ended else None
        start = first.end() if first else 0
        points: list[Point] = []
        if first:
            self._line.add(data[: first.start()])
            points.extend(self._matched(self._line.take())[1])
        for line in _lines_with(self._hints, data[start:ended].replace(b"\r", b"\n")):
            if len(line) <= HEAD_BYTES:
                text = safe(line)
            else:
                self._line.add(line)
                text = self._line.take()
            points.extend(self._again(text) or self._matched(text)[1])
        self._written_over, self._raised = "", 0
        if ended:
            self._overwrites = data[ended - 1 : ended] == b"\r"
        lines = self.feed(data[max(start, ended) :])
        return [*points, *(point for line in lines for point in line.points)]

    def finish(self) -> list[LogLine]:
        """The last line, where the log has ended without a newline."""
        return self._ended() if self._line or self._written_over else []

    def _goes_back(self) -> bool:
        """True: what comes next is written over the line, or over one above it."""
        self._raised = min(self._raised + self._line.ups(), _MOST_RAISED)
        return True

    def _goes_down(self) -> bool:
        """Whether a newline only moves to the next of several bars: the cursor was moved up before (tqdm's `position`).

        The outermost bar's last state stays, and so does what is no bar.
        """
        up = self._line.ups()
        self._goes_back()
        if not self._raised:
            return False
        self._raised -= 1
        text = self._line.text()
        if up:
            return not text.strip() or _BAR.search(text) is not None
        return _BAR.search(text) is not None and "100%|" not in text

    def _returned(self) -> list[LogLine]:
        if not self._line:
            return []
        marked = self._read(self._line.take(), transient=True)
        self._written_over = marked.text
        return [marked]

    def _ended(self) -> list[LogLine]:
        """A newline right after a carriage return ends what stands there: `\\r\\n`, or a progress bar's last state."""
        before, self._written_over = self._written_over, ""
        return [self._read(self._line.take(), transient=False) if self._line else LogLine(before)]

    def _read(self, text: str, *, transient: bool) -> LogLine:
        matches, points = self._matched(text)
        spans = [
            _span(match, name)
            for match in matches
            for name, said in match.groupdict().items()
            if said is not None and name in LOSS_GROUPS
        ]
        return LogLine(text, points, tuple(sorted(spans)), transient)

    def _matched(self, text: str) -> tuple[Sequence[re.Match[str]], tuple[Point, ...]]:
        """The line's points, and the matches that gave them."""
        if len(text) > MATCH_LIMIT:
            return (), ()
        stands: tuple[int, int] | None = None
        for one in self._formats:
            if one.hint not in text:
                continue
            stands = stands or whole(text)
            if one.repeats:
                matches = list(islice(one.pattern.finditer(text), MOST_FIELDS))
            else:
                match = one.pattern.search(text) if one.anywhere else one.pattern.fullmatch(text, *stands)
                matches = [match] if match else []
            if one.lends and matches:
                self._contexts[one.name].lent = {name: said for name, said in matches[0].groupdict().items() if said}
            elif found := [(match, points) for match in matches if (points := self._points(one, match))]:
                self._newest = None if one.anywhere else one
                first = _first_of_each_split(found)
                return [match for match, _ in first], tuple(point for _, points in first for point in points)
        return (), ()

    def _again(self, text: str) -> Sequence[Point]:
        """The points of a line of the format that the last one had; none where it takes a closer look.

        Of a long log most lines are such: looked for alone, and without a logger's prefix, they take half the time.
        """
        one = self._newest
        if one is None or len(text) > MATCH_LIMIT or not (match := one.pattern.fullmatch(text)):
            return ()
        context = self._contexts[one.name]
        points = one.build(match, context)
        if context.lent or not points or any(self._sources.get(point.split) != one.name for point in points):
            return ()
        context.newest = points[-1]
        return points

    def _points(self, one: LogFormat, match: re.Match[str]) -> tuple[Point, ...]:
        context = self._contexts[one.name]
        found = one.build(match, context)
        mine = tuple(point for point in found if self._sources.get(point.split, LOOSE) in (LOOSE, one.name))
        self._sources.update({point.split: one.name for point in mine})
        if mine:
            context.newest = mine[-1]
        return mine


def _lines_with(hints: Sequence[bytes], data: bytes) -> Iterator[bytes]:
    """The lines, each ended by a newline, that have any of the hints in them, in order."""
    places = {hint: at for hint in hints if (at := data.find(hint)) >= 0}
    done = 0
    while places:
        at = min(places.values())
        begin, end = max(done, data.rfind(b"\n", done, at) + 1), data.find(b"\n", at)
        if end < 0:
            return
        yield data[begin:end]
        done = end + 1
        for hint in [hint for hint, place in places.items() if place < done]:
            if (next_one := data.find(hint, done)) >= 0:
                places[hint] = next_one
            else:
                del places[hint]


def _first_of_each_split(
    found: Sequence[tuple[re.Match[str], tuple[Point, ...]]],
) -> list[tuple[re.Match[str], tuple[Point, ...]]]:
    """Of a line that says a split's loss several times (of a batch, then the mean) the first."""
    first: dict[Split, tuple[re.Match[str], tuple[Point, ...]]] = {}
    for match, points in found:
        first.setdefault(points[0].split, (match, points))
    return list(first.values())


def _span(match: re.Match[str], name: str) -> tuple[int, int]:
    return match.span(match.re.groupindex[name])  # RE2's matches know groups by number alone


class _Line:
    """The bytes of a line that has not ended: all of a short one, the beginning and the end of a long one."""

    def __init__(self) -> None:
        self._head, self._tail, self._length = bytearray(), bytearray(), 0

    def __bool__(self) -> bool:
        return self._length > 0

    def add(self, data: bytes) -> None:
        self._length += len(data)
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:][-TAIL_BYTES:]
        del self._tail[:-TAIL_BYTES]

    def text(self) -> str:
        """The line so far, safe to show."""
        left_out = self._length - len(self._head) - len(self._tail)
        if left_out:
            return f"{safe(bytes(self._head))} … {left_out:,} bytes … {safe(bytes(self._tail))}"
        return safe(bytes(self._head + self._tail))

    def ups(self) -> int:
        """How often it moves the cursor to the line above."""
        return self._head.count(_UP) + self._tail.count(_UP)

    def take(self) -> str:
        """The line, and an empty one in its place."""
        text = self.text()
        self._head, self._tail, self._length = bytearray(), bytearray(), 0
        return text
