"""Following a run: its log and metrics as they come, by byte offset, over however many connections that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from gpuctl.core.errors import HostUnreachable
from gpuctl.core.losses import LossReader, Marked
from gpuctl.core.metrics import Point, parse_metrics_line
from gpuctl.remote.follow import Ended, LogChunk, MetricsChunk, follow
from gpuctl.remote.host import Host
from gpuctl.state.runs import RunFolder
from gpuctl.workflows.hosts import OpenRun, living_instance, open_host

GIVE_UP_AFTER_S = 600
PAUSE_S = 0.5
ENDED = ("succeeded", "failed", "stopped")
_READ_SIZE = 1 << 20


@dataclass
class Losses:
    """The points of a run, and where they come from: its metrics file if that gives any, else its log. Never merged."""

    pattern: str | None = None
    from_metrics: list[Point] = field(default_factory=list)
    from_log: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = LossReader(self.pattern)
        self._rest = b""

    @property
    def points(self) -> list[Point]:
        """The run's points so far."""
        return self.from_metrics or self.from_log

    def read_log(self, data: bytes) -> list[Marked]:
        """The finished lines of a piece of the log."""
        return self._took(self._reader.feed(data))

    def finish(self) -> list[Marked]:
        """The last line, where the log ends without a line's end."""
        return self._took(self._reader.finish())

    def _took(self, lines: list[Marked]) -> list[Marked]:
        for line in lines:
            self.from_log.extend(line.points)
        return lines

    def read_metrics(self, data: bytes) -> list[Point]:
        """The points of a piece of the metrics file."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        new = [point for line in lines for point in parse_metrics_line(line)]
        self.from_metrics.extend(new)
        return new


@dataclass(frozen=True)
class Update:
    """What came: finished log lines, new points, or the state at the end."""

    lines: tuple[Marked, ...] = ()
    points: tuple[Point, ...] = ()
    ended: Mapping[str, Any] | None = None


class Follower:
    """Reads a run from where this laptop's copy ends, keeps the copy, and goes on after a broken connection."""

    def __init__(self, run: OpenRun) -> None:
        self.run = run
        self.losses = Losses(run.folder.read().plan.pattern if run.folder.exists() else None)

    def history(self) -> list[Marked]:
        """The lines that are here already, read for their losses."""
        lines: list[Marked] = []
        for data in _pieces(self.run.folder.log):
            lines.extend(self.losses.read_log(data))
        for data in _pieces(self.run.folder.metrics):
            self.losses.read_metrics(data)
        return lines

    def updates(self, *, until_end: bool = True, on_lost: Callable[[str], None] | None = None) -> Iterator[Update]:
        """What comes from now on, to the end of the training. Raises HostUnreachable where the host is gone."""
        connected = Retrying(
            retry=retry_if_exception_type(HostUnreachable),
            wait=wait_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(GIVE_UP_AFTER_S if until_end else 0),
            before_sleep=self._still_there,
            reraise=True,
        )
        while True:
            host = connected(open_host, self.run)
            try:
                with host:
                    yield from self.events(host, until_end=until_end)
                    return
            except HostUnreachable as lost:
                living_instance(self.run)
                if not until_end:
                    raise
                if on_lost is not None:
                    on_lost(lost.message)
                time.sleep(PAUSE_S)

    def _still_there(self, _attempt: RetryCallState) -> None:
        living_instance(self.run)

    def events(self, host: Host, *, until_end: bool) -> Iterator[Update]:
        """What comes over one connection. Raises HostUnreachable where it breaks."""
        folder = self.run.folder
        offsets = {"log_offset": _size(folder.log), "metrics_offset": _size(folder.metrics)}
        for event in follow(host, **offsets, until_end=until_end):
            if isinstance(event, LogChunk):
                _keep(folder.log, event.offset, event.data)
                yield Update(lines=tuple(self.losses.read_log(event.data)))
            elif isinstance(event, MetricsChunk):
                _keep(folder.metrics, event.offset, event.data)
                yield Update(points=tuple(self.losses.read_metrics(event.data)))
            elif isinstance(event, Ended):
                note_state(folder, event.state)
                yield Update(lines=tuple(self.losses.finish()), ended=event.state)
                return


def note_state(folder: RunFolder, state: Mapping[str, Any]) -> bool:
    """Remember how the training ended, so that `ls` can tell without asking the host. True where it has ended."""
    ended = state.get("state") in ENDED
    if ended:
        code = state.get("exit_code")
        folder.note(ended=str(state["state"]), exit_code=code if isinstance(code, int) else None)
    return ended


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _keep(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(offset)
        file.truncate()
        file.write(data)


def _pieces(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            while data := file.read(_READ_SIZE):
                yield data
