"""A run, live: a plot of its losses, their latest values, its speed, its cost and how long it may go on."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from gpuctl.core.cost import cost_usd
from gpuctl.core.host_state import Gpu, HostState
from gpuctl.core.losses.points import Point, Split, last_by_split, positions
from gpuctl.core.losses.reader import LogLine
from gpuctl.core.text import safe
from gpuctl.ui.console import console, draws, unfailing
from gpuctl.ui.words import left, loss, money, price, span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

LOG_LINES = 6
PLAIN_EVERY_S = 5.0
_RATE_OVER_S = 60.0
_RATE_POINTS = 200
_AT_ONCE_S = 1.0
"""Points without times that come within this are one arrival."""


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class WatchView:
    """Shows one run until the user leaves. On a terminal, a view that is redrawn; elsewhere, a line now and then.

    `started` is when the run began to cost money, `training_since` when training began.
    """

    def __init__(
        self,
        run: str,
        *,
        price_usd_per_hour: Decimal | None = None,
        started: datetime | None = None,
        training_since: datetime | None = None,
        lease_ends: datetime | None = None,
        stream: TextIO | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._run, self._price, self._started, self._lease_ends = run, price_usd_per_hour, started, lease_ends
        self._training_since = training_since
        self._training_until: datetime | None = None
        self._now = now
        self._console = console(stream or sys.stdout)
        if draws(self._console):
            self._console.file = unfailing(stream or sys.stdout)
        self._points: Sequence[Point] = ()
        self._log: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._state, self._gpus, self._notice = "running", "", ""
        self._rate = _Rate()
        self._drawn: tuple[object, Text] | None = None
        self._told: tuple[int, datetime] | None = None
        self._lock = threading.RLock()
        self._live: Live | None = None

    def __enter__(self) -> WatchView:
        if draws(self._console):
            from rich.live import Live

            self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=4, screen=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._console.print(self.render())
        else:
            self._tell(always=True)

    @property
    def live(self) -> bool:
        """True where the view is drawn."""
        return self._live is not None

    def update(
        self,
        *,
        points: Sequence[Point] | None = None,
        lines: Iterable[LogLine] = (),
        state: HostState | None = None,
        gpus: Sequence[Gpu] | None = None,
        notice: str | None = None,
        lost: bool = False,
    ) -> None:
        """What is new: all the points so far, more lines of the log, the host's state, how its GPUs are used, a notice
        for people (an empty one clears it), whether the connection was lost."""
        with self._lock:
            for line in lines:
                if self._log and self._log[-1].transient:
                    self._log.pop()
                self._log.append(line)
            if points is not None:
                self._points = points
                self._rate.see(points, self._now())
            if state is not None:
                self._read_state(state)
            if gpus is not None:
                self._gpus = ", ".join(map(_gpu, gpus))
            if notice is not None:
                self._notice = safe(notice)
            if lost:
                self._rate.begin_anew()
        if self._live is None:
            if notice:
                self._console.file.write(f"{self._run}  {self._notice}\n")
            self._tell(always=False)

    def render(self) -> RenderableType:
        """The view as it stands, as wide as the terminal."""
        from rich.console import Group

        with self._lock:
            width, height = self._console.width, self._console.height
            log = [self._log_line(line) for line in self._log]
            parts = [*self._heads(), *self._losses(), *([self._warning()] if self._notice else [])]
            plot_height = min(24, height - len(parts) - len(log) - 1)
            if plot_height >= 7 and any(p.loss is not None for p in self._points):
                parts.append(self._plot(min(width, 160), plot_height))
            return Group(*parts, *log)

    def _read_state(self, state: HostState) -> None:
        self._state = state.training
        if state.exit_code is not None and state.training in ("failed", "stopped"):
            self._state += f", exit code {state.exit_code}"
        self._training_since = state.started or self._training_since
        if state.over:
            self._training_until = state.ended or self._now()
        self._gpus = ", ".join(map(_gpu, state.gpus))

    def _heads(self) -> list[Text]:
        """The run and its state, then time, money and machine."""
        from rich.text import Text

        from gpuctl.ui.tables import STATE_STYLES

        state = Text(self._state, STATE_STYLES.get(self._state.split(",")[0], ""))
        head = Text.assemble((self._run, "bold"), "  ", state)
        return self._packed([head, *(Text(fact, "dim") for fact in self._facts())])

    def _packed(self, items: Sequence[Text]) -> list[Text]:
        """The items side by side, as many on a line as fit whole."""
        from rich.text import Text

        lines: list[Text] = []
        for item in items:
            if lines and lines[-1].cell_len + 3 + item.cell_len <= self._console.width:
                lines[-1] = Text.assemble(lines[-1], "   ", item)
            else:
                lines.append(Text.assemble(item))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines

    def _facts(self) -> list[str]:
        now = self._now()
        since = self._training_since or self._started
        trained = None if since is None else (self._training_until or now) - since
        facts = [] if trained is None else [f"{span(max(0, int(trained.total_seconds())))} of training"]
        if self._rate.text:
            facts.append(self._rate.text)
        if self._price is not None and self._started is not None:
            facts.append(f"{money(cost_usd(self._price, now - self._started))} so far ({price(self._price)})")
        if self._lease_ends is not None:
            facts.append(f"lease ends {left(self._lease_ends, now)}")
        return [*facts, self._gpus] if self._gpus else facts

    def _losses(self) -> list[Text]:
        from rich.text import Text

        from gpuctl.ui.plot import label, mark
        from gpuctl.ui.tables import SPLIT_STYLES

        last = last_by_split(self._points)
        items = []
        for split in _held(last):
            point, style = last[split], SPLIT_STYLES[split]
            name = label(split) if split == "val" or "val" not in last else split
            value = (loss(point.loss, point.nonfinite), f"bold {style}" if point.loss is not None else "bold red")
            sign = mark(split, unicode=self._unicode)
            items.append(Text.assemble((f"{sign} {name} ", style), value, (f" {_place(point)}", "dim")))
        return self._packed(items) if items else [Text("no losses yet", style="dim")]

    def _plot(self, width: int, height: int) -> Text:
        from gpuctl.ui.plot import plot

        key = (len(self._points), self._points[-1], width, height)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, plot(self._points, width=width, height=height, unicode=self._unicode))
        return self._drawn[1]

    def _log_line(self, line: LogLine) -> Text:
        from gpuctl.ui.log import marked_text

        text = marked_text(line)
        text.no_wrap, text.overflow = True, "ellipsis"
        text.stylize_before("dim")
        text.expand_tabs(8)
        return text

    def _warning(self) -> Text:
        from rich.text import Text

        return Text(self._notice, style="bold yellow", no_wrap=True, overflow="ellipsis")

    @property
    def _unicode(self) -> bool:
        return self._console.encoding.lower().startswith("utf")

    def _tell(self, *, always: bool) -> None:
        """If nothing can be drawn: a line when there is something new, but not too often."""
        now, count = self._now(), len(self._points)
        if self._told is not None:
            new = count != self._told[0]
            if not new or not (always or (now - self._told[1]).total_seconds() >= PLAIN_EVERY_S):
                return
        elif not count and not always:
            return
        self._told = (count, now)
        last = last_by_split(self._points)
        losses = [
            f"{split} {loss(last[split].loss, last[split].nonfinite)} {_place(last[split])}".rstrip()
            for split in _held(last)
        ]
        words = [self._run, self._state, *(losses or ["no losses yet"]), *self._facts()]
        self._console.file.write("  ".join(words) + "\n")
        self._console.file.flush()


class _Rate:
    """How fast the training goes, from the times that points carry, else from when they arrived."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, float]] = deque(maxlen=_RATE_POINTS)
        self.text = ""

    def begin_anew(self) -> None:
        """What comes next was made while nobody listened: its arrival says nothing of how fast it was made."""
        self._seen.clear()
        self.text = ""

    def see(self, points: Sequence[Point], now: datetime) -> None:
        """All points so far. Those that come together with no times of their own count as one arrival."""
        recent = points[-_RATE_POINTS:]
        axis, places = positions(recent)
        if not recent or axis == "point":
            return
        timed = [(p.time, place) for p, place in zip(recent, places, strict=True) if p.time is not None]
        if timed:
            self._seen = deque(timed, maxlen=_RATE_POINTS)
        elif self._seen and (now - self._seen[-1][0]).total_seconds() < _AT_ONCE_S:
            self._seen[-1] = (self._seen[-1][0], places[-1])
        elif not self._seen or self._seen[-1][1] != places[-1]:
            self._seen.append((now, places[-1]))
        self.text = self._measured(axis)

    def _measured(self, axis: str) -> str:
        when, place = self._seen[-1]
        first = next(at for at in self._seen if (when - at[0]).total_seconds() <= _RATE_OVER_S)
        seconds, way = (when - first[0]).total_seconds(), place - first[1]
        if seconds <= 0 or way <= 0:
            return ""
        rate, unit = way / seconds, axis
        if axis == "epoch":
            return f"{rate * 60:.3g} epochs/min"
        return (
            f"{rate:,.0f} {unit}s/s"
            if rate >= 100
            else f"{rate:.3g} {unit}s/s"
            if rate >= 1
            else f"{1 / rate:.3g} s/{unit}"
        )


def _held(last: Mapping[Split, Point]) -> list[Split]:
    """Train, and val; test at the end, or in val's place."""
    return [split for split in ("train", "val", "test") if split in last]


def _place(point: Point) -> str:
    words = [] if point.step is None else [f"step {point.step:,}"]
    if point.epoch is not None:
        words.append(f"epoch {point.epoch:.2f}")
    return f"({', '.join(words)})" if words else ""


def _gpu(gpu: Gpu) -> str:
    used, total, busy = gpu.memory_used_mib, gpu.memory_total_mib, gpu.utilization_percent
    memory = "" if used is None or total is None else f", {used / 1024:.1f} of {total / 1024:.1f} GiB"
    return f"{gpu.name} {'?' if busy is None else busy}%{memory}"
