"""Following a run: its log and metrics as they come, by byte offset, over however many connections that takes."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from queue import Queue
from typing import Literal

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from gpuctl.core.errors import GpuctlError, HostError, HostGone, HostUnreachable, JobError
from gpuctl.core.host_state import ENDED, Gpu, HostState
from gpuctl.core.losses.points import MOST_POINTS
from gpuctl.core.losses.reader import LogLine
from gpuctl.core.losses.sources import Losses
from gpuctl.remote.follow import Alive, Differs, Ended, GpusSeen, LogChunk, MetricsChunk, follow
from gpuctl.remote.host import Host
from gpuctl.state.copies import LocalCopy
from gpuctl.state.records import Seen
from gpuctl.workflows.hosts import RunHandle, nobody, open_host

GIVE_UP_AFTER_S = 600
PAUSE_S = 0.5
FIRST_SIZE = 1 << 20
_MOST_AHEAD = 8
"""Updates of several hosts that wait to be shown: one may be a thousand lines and more."""
_MOST_HISTORY = 64 * 1024 * 1024
"""Bytes in memory of the lines that are shown of what is here already: of a longer log, its end."""
_MOST_COMPARED = 5


@dataclass(frozen=True)
class Update:
    """What came: finished log lines, news of the metrics, how the GPUs are used, the state at the end, or nothing new.

    With `again`, the lines were here already, in a copy that turned out not to be the host's log. Where it is not
    `of_log`, it says nothing of whether more of the log has come.
    """

    lines: tuple[LogLine, ...] = ()
    ended: HostState | None = None
    gpus: tuple[Gpu, ...] | None = None
    again: bool = False
    of_log: bool = True


class _Reading:
    """How far one of a run's files has been read, by this process, and its local copy."""

    def __init__(self, path: Path) -> None:
        self.copy = LocalCopy(path)
        self.at = 0
        self.seen = 0
        self._mending = False
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all that has been read."""
        return self._digest.hexdigest()

    def took(self, data: bytes) -> bytes:
        """The next bytes, from the copy or from the host."""
        self.at += len(data)
        self._digest.update(data)
        return data

    def differs(self) -> None:
        """The copy is not how the host's file begins: it is read again, and put right as it comes."""
        self.seen, self._mending = max(self.seen, self.at), True
        self.at, self._digest = 0, hashlib.sha256()

    def begins_anew(self) -> None:
        """The host's file is another than the one that was read."""
        self.at = self.seen = 0
        self._mending, self._digest = False, hashlib.sha256()
        self.copy.clear()

    def is_whole(self) -> None:
        """Nothing more comes: what the copy has beyond that was another file's. Raises OSError."""
        if self._mending:
            self.copy.cut(self.at)

    def keep(self, offset: int, data: bytes) -> None:
        """Keep what came in the copy. Raises OSError."""
        if self._mending:
            self.copy.mend(offset, data)
        else:
            self.copy.add(offset, data)


Reads = Literal["lines", "points", "nothing"]
"""What is read of a log: its lines and their points, its points alone, which is much sooner done, or nothing of it."""


class Follower:
    """Reads a run from where this laptop's copy ends, keeps the copy, and goes on after a broken connection.

    Of more than `most_points` losses some are kept; None: all of them are.
    """

    def __init__(
        self, run: RunHandle, *, gpus: bool = False, reads: Reads = "lines", most_points: int | None = MOST_POINTS
    ) -> None:
        self.run, self._gpus, self._reads = run, gpus, reads
        self.losses = _losses_of(run, most_points)
        self._log, self._metrics = _Reading(run.kept.log), _Reading(run.kept.metrics)
        self._not_kept = self._left_out = False
        self._compared = 0
        self._heard = time.monotonic()

    @property
    def no_losses(self) -> bool:
        """True where all of the log and the metrics was read, and has lines but no loss."""
        return not (self.losses.points or self._left_out) and self._log.at > 0

    def history(self, last: int | None = None) -> list[LogLine]:
        """The lines that are here already (`last`: so many of them), all of the log read for its losses."""
        begin = 0 if last is None else self._log.copy.start_of_last(last)
        lines = self._history_from(begin, self._skim)
        for data in self._metrics.copy.pieces():
            self._read_metrics(self._metrics.took(data))
        return lines

    def last_lines(self, last: int) -> list[LogLine]:
        """The last lines that are here already. Losses are read at the log's beginning, which shows its format."""
        begin = self._log.copy.start_of_last(last)
        self._left_out = begin > FIRST_SIZE or self._metrics.copy.size() > 0
        lines = self._history_from(begin, self._skim_first)
        for data in self._metrics.copy.pieces():
            self._metrics.took(data)
        return lines

    def _history_from(self, begin: int, before: Callable[[bytes], object]) -> list[LogLine]:
        """The lines from an offset on, of very many the last; `before` hears the bytes before it."""
        lines, held = deque[LogLine](), 0
        for data in self._log.copy.pieces():
            cut = max(0, begin - self._log.at)
            self._log.took(data)
            if data[:cut]:
                before(data[:cut])
            for line in self._read_log(data[cut:]) if data[cut:] else ():
                lines.append(line)
                held += _size_of(line)
                while held > _MOST_HISTORY:
                    held -= _size_of(lines.popleft())
        return list(lines)

    def _skim_first(self, data: bytes) -> None:
        """The whole lines of the log's first bytes alone: what comes next is not what follows them."""
        if self._log.at <= FIRST_SIZE:
            self._skim(data[: data.rfind(b"\n") + 1])

    def _skim(self, data: bytes) -> None:
        if self._reads != "nothing":
            self.losses.log.skim(data)

    def _read_log(self, data: bytes) -> list[LogLine]:
        if self._reads == "lines":
            return self.losses.log.feed(data)
        self._skim(data)
        return []

    def _read_metrics(self, data: bytes) -> None:
        if self._reads != "nothing":
            self.losses.metrics.feed(data)

    def updates(self, *, until_end: bool = True, on_lost: Callable[[str], None] | None = None) -> Iterator[Update]:
        """What comes from now on, to the end of the training.

        A host that does not answer is tried again for ten minutes after its last word, whether or not AWS can be asked
        about it. Raises HostUnreachable then, HostGone and HostStopped at once.
        """
        self._heard = time.monotonic()
        while True:
            host = self._reached(on_lost) if until_end else open_host(self.run)
            try:
                with host:
                    yield from self.events(host, until_end=until_end)
                    return
            except HostUnreachable as lost:
                if not until_end or self._given_up():
                    raise
                if on_lost is not None:
                    on_lost(lost.message)
                time.sleep(PAUSE_S)

    def _reached(self, on_lost: Callable[[str], None] | None) -> Host:
        """The host, once it answers; `on_lost` hears why the first try failed."""

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            if on_lost is not None and state.attempt_number == 1 and isinstance(error, HostUnreachable):
                on_lost(error.message)

        retrying = Retrying(
            retry=retry_if_exception(lambda e: isinstance(e, HostUnreachable) and not isinstance(e, HostGone)),
            wait=wait_exponential(multiplier=0.5, max=15),
            stop=lambda _: self._given_up(),
            before_sleep=tell,
            reraise=True,
        )
        return retrying(open_host, self.run)

    def _given_up(self) -> bool:
        return time.monotonic() - self._heard > GIVE_UP_AFTER_S

    def events(self, host: Host, *, until_end: bool) -> Iterator[Update]:
        """What comes over one connection. Raises HostUnreachable where it breaks."""
        coming = follow(
            host,
            log_offset=self._log.at,
            log_sha256=self._log.sha256,
            metrics_offset=self._metrics.at,
            metrics_sha256=self._metrics.sha256,
            until_end=until_end,
            gpus=self._gpus,
        )
        for event in coming:
            self._heard = time.monotonic()
            if isinstance(event, Differs):
                self._differs(event.file)
            elif isinstance(event, LogChunk):
                yield from self._log_came(event)
            elif isinstance(event, MetricsChunk):
                yield self._metrics_came(event)
            elif isinstance(event, Alive):
                yield Update()
            elif isinstance(event, GpusSeen):
                yield Update(gpus=event.gpus, of_log=False)
            elif isinstance(event, Ended):
                self._finish(host, event.state, until_end=until_end)
                yield Update(lines=tuple(self.losses.log.finish()), ended=event.state)
                return

    def _differs(self, file: str) -> None:
        self._compared += 1
        if self._compared > _MOST_COMPARED:
            raise HostError(
                f"{self.run.alias} keeps saying that the {file} it sent is not its own",
                "look at it with `gpuctl ssh`",
            )
        self.run.tell(f"the local copy of the {file} of {self.run.name} differs from the host's: fetching it again")
        if file == "log":
            self._log.differs()
            self.losses.forget_log()
        else:
            self._metrics.differs()
            self.losses.forget_metrics()

    def _log_came(self, chunk: LogChunk) -> Iterator[Update]:
        with self._kept():
            if chunk.offset < self._log.at:
                self.losses.forget_log()
                self._log.begins_anew()
            self._log.keep(chunk.offset, chunk.data)
        self._log.took(chunk.data)
        seen = max(0, self._log.seen - chunk.offset)
        for data, again in ((chunk.data[:seen], True), (chunk.data[seen:], False)):
            if data:
                yield Update(lines=tuple(self._read_log(data)), again=again)

    def _metrics_came(self, chunk: MetricsChunk) -> Update:
        with self._kept():
            if chunk.offset < self._metrics.at:
                self.losses.forget_metrics()
                self._metrics.begins_anew()
            self._metrics.keep(chunk.offset, chunk.data)
        self._read_metrics(self._metrics.took(chunk.data))
        return Update(of_log=False)

    def _finish(self, host: Host, state: HostState, *, until_end: bool) -> None:
        """Note how it ended; fetch what is missing of the copies (the disk was full, somebody removed them)."""
        with self._kept():
            note_state(self.run, state)
            if state.over:
                self._log.is_whole()
                self._metrics.is_whole()
        if until_end and any(reading.copy.size() < reading.at for reading in (self._log, self._metrics)):
            again = Follower(replace(self.run, tell=nobody), reads="nothing")
            again.history()
            for _ in again.events(host, until_end=False):
                pass

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """A disk that cannot be written is told once, and ends nothing: the host has it all."""
        try:
            yield
        except OSError as error:
            if not self._not_kept:
                why = error.strerror or error
                self.run.tell(f"the log and metrics of {self.run.name} cannot be saved here ({why}); the host has them")
            self._not_kept = True


def followed(
    followers: Sequence[Follower], *, on_lost: Callable[[str], None] | None = None
) -> Iterator[tuple[int, Update | GpuctlError]]:
    """What comes of a run's hosts, each with its place among them, until nothing more comes of any.

    The last of a host is the end of its training, or the error for which nothing more comes of it: the others go on.
    """
    if len(followers) == 1:
        yield from ((0, what) for what in _to_its_end(followers[0], on_lost))
        return
    came: Queue[tuple[int, Update | Exception | None]] = Queue(_MOST_AHEAD)

    def follow_one(place: int, follower: Follower) -> None:
        try:
            for what in _to_its_end(follower, on_lost):
                came.put((place, what))
            came.put((place, None))
        except Exception as error:  # noqa: BLE001  (raised where they are waited for)
            came.put((place, error))

    for place, follower in enumerate(followers):
        threading.Thread(target=follow_one, args=(place, follower), name=f"follow {place}", daemon=True).start()
    going = len(followers)
    while going:
        place, what = came.get()
        if what is None:
            going -= 1
        elif isinstance(what, (Update, GpuctlError)):
            yield place, what
        else:
            raise what


def _to_its_end(follower: Follower, on_lost: Callable[[str], None] | None) -> Iterator[Update | GpuctlError]:
    try:
        yield from follower.updates(on_lost=on_lost)
    except GpuctlError as error:
        yield error


def _losses_of(run: RunHandle, most_points: int | None) -> Losses:
    """With the job's own pattern; where that cannot be used (an older gpuctl allowed it), with the known formats."""
    record = run.folder.known()
    try:
        return Losses(record.plan.workload.pattern if record else None, most=most_points)
    except JobError as error:
        run.tell(f"{error.message}: looking for the losses of {run.name} in the known formats instead")
        return Losses(most=most_points)


def _size_of(line: LogLine) -> int:
    return sys.getsizeof(line.text) + 256 * (1 + len(line.points))


def note_state(run: RunHandle, state: HostState) -> bool:
    """Remember what a host says of the training; how it ended `ls` can tell then without asking. True at its end.

    A run has ended as its first host says.
    """
    run.kept.note_seen(Seen(state.training, datetime.now(timezone.utc), state.why, state.power_off_at))
    if state.over and run.number == 0:
        run.folder.note(ended=state.training, exit_code=state.exit_code)
    return state.over


def ended_as_seen(run: RunHandle) -> HostState | None:
    """How the training on a host ended, where this laptop has heard of it before."""
    progress, seen = run.folder.progress(), run.kept.seen()
    if run.number == 0 and progress.ended is not None:
        return HostState(progress.ended, progress.exit_code)
    return HostState(seen.state, why=seen.why) if run.number and seen is not None and seen.state in ENDED else None
