"""Ctrl-C, and the signals that mean the same: when they may interrupt, when they wait, when they are only noted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_AFTER_S = 2.0
"""An interrupt that was swallowed somewhere (a library's `except`, a destructor) may be had again after so long."""


def nobody() -> None:
    """Tells nobody."""


class EndingSignals:
    """Within, the first signal that asks to end (Ctrl-C, SIGTERM, a closed terminal) raises KeyboardInterrupt, once.

    Those that come on its heels raise nothing, so that whatever is unwound or undone because of the first is not cut
    off. After `only_note` none raises any more. Once one has come, they are ignored when the block is left, for the
    process is going to end by itself, with its own exit code (Python's own handlers are gone while it shuts down). A
    SIGHUP that is ignored (`nohup`) stays ignored.
    """

    current: EndingSignals | None = None

    def __init__(self) -> None:
        self._came = False
        self._raised_at: float | None = None
        self._waiting = False
        self._blocks = 0
        self._told: Callable[[], None] | None = None
        self._told_at = -AGAIN_AFTER_S
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            EndingSignals.current = self
            for number in _ENDING:
                if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before.append((number, signal.signal(number, self._handle)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if EndingSignals.current is self:
            EndingSignals.current = None
        for number, before in self._before:
            signal.signal(number, signal.SIG_IGN if self._came else before)
        self._told = nobody

    def only_note(self, told: Callable[[], None]) -> None:
        """From now on a signal only calls `told`, within the block: what is being undone must not stop halfway."""
        self._told = told

    def hold(self) -> None:
        """From now on an interrupt waits. Raises KeyboardInterrupt where one came before and was swallowed."""
        self._blocks += 1
        if self._raised_at is not None and self._told is None:
            self._blocks -= 1
            raise KeyboardInterrupt

    def release(self) -> None:
        """It waits no more. Raises the KeyboardInterrupt that has waited."""
        self._blocks -= 1
        if self._waiting and not self._blocks:
            self._waiting = False
            self._raised_at = time.monotonic()
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._came, now = True, time.monotonic()
        if self._told is not None:
            if now - self._told_at >= AGAIN_AFTER_S:
                self._told_at = now
                with suppress(Exception):  # a handler runs anywhere: nothing of telling may end what it interrupts
                    self._told()
            return
        if self._blocks:
            self._waiting = True
            return
        if self._raised_at is None or now - self._raised_at >= AGAIN_AFTER_S:
            self._raised_at = now
            raise KeyboardInterrupt


class interrupts_wait:  # noqa: N801  (a statement; made of a generator it would have gaps at its edges)
    """Within, a signal that asks to end waits; it is raised as KeyboardInterrupt once the block has ended.

    For calls that create what costs money: cut off in the middle, nobody would know what they made.
    """

    def __init__(self) -> None:
        self._signals = EndingSignals.current

    def __enter__(self) -> None:
        if self._signals is not None:
            self._signals.hold()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signals is not None:
            self._signals.release()
