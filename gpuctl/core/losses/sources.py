"""Where a run's points come from: the first source, in order, that gives any. Sources are never merged."""

from __future__ import annotations

from collections.abc import Sequence

from gpuctl.core.losses.points import LINE_LIMIT, Point, parse_metrics_line, thin
from gpuctl.core.losses.reader import LogLine, LossReader


class MetricsSource:
    """The metrics file, read as it grows. Of more points than `most` some are kept; None: all of them are."""

    def __init__(self, most: int | None = None) -> None:
        self.points: list[Point] = []
        self._most = most
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Point]:
        """The points of the next bytes. Of a line that is too long to be read only enough is kept to see that."""
        first, *others = data.split(b"\n")
        self._rest += first[: LINE_LIMIT + 1 - len(self._rest)]
        if not others:
            return []
        lines = [bytes(self._rest), *others[:-1]]
        self._rest = bytearray(others[-1][: LINE_LIMIT + 1])
        new = [point for line in lines for point in parse_metrics_line(line)]
        self.points.extend(new)
        thin(self.points, self._most)
        return new


class LogSource:
    """The log, read as it grows. `pattern` is the job's own for a loss, where it has one; `most` as for the metrics."""

    def __init__(self, pattern: str | None = None, most: int | None = None) -> None:
        self.points: list[Point] = []
        self._most = most
        self._reader = LossReader(pattern)

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that the next bytes end."""
        return self._took(self._reader.feed(data))

    @property
    def partial(self) -> str:
        """What stands of a line that has not ended."""
        return self._reader.partial

    @property
    def overwrites(self) -> bool:
        """True where that line is written over another, as a progress bar is."""
        return self._reader.overwrites

    def skim(self, data: bytes) -> None:
        """The points of the next bytes alone."""
        self.points.extend(self._reader.skim(data))
        thin(self.points, self._most)

    def finish(self) -> list[LogLine]:
        """The last line, where the log ends without a line's end."""
        return self._took(self._reader.finish())

    def _took(self, lines: list[LogLine]) -> list[LogLine]:
        for line in lines:
            self.points.extend(line.points)
        thin(self.points, self._most)
        return lines


class Losses:
    """The points of a run. `metrics` goes before `log`; either may be read again from its start.

    Of each, of more than `most` points some are kept, so that no log fills the memory; None: all of them are.
    """

    def __init__(self, pattern: str | None = None, *, most: int | None = None) -> None:
        self._pattern, self._most = pattern, most
        self.metrics, self.log = MetricsSource(most), LogSource(pattern, most)

    @property
    def points(self) -> Sequence[Point]:
        """The run's points so far."""
        return next((source.points for source in (self.metrics, self.log) if source.points), [])

    def forget_log(self) -> None:
        """The log is read again from its start."""
        self.log = LogSource(self._pattern, self._most)

    def forget_metrics(self) -> None:
        """The metrics file is read again from its start."""
        self.metrics = MetricsSource(self._most)
