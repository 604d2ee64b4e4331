"""Ctrl-C, and the signals that mean the same: when they may interrupt, and when they wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def ending_signals_interrupt() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP (a closed terminal) raise KeyboardInterrupt as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Within, a signal that asks to end waits; it is raised as KeyboardInterrupt once the block has ended.

    For calls that create what costs money: cut off in the middle, nobody would know what they made.
    """
    waiting: list[int] = []
    with _handled_by(lambda number, _frame: waiting.append(number)):
        yield
    if waiting:
        raise KeyboardInterrupt


@contextmanager
def interrupts_ignored(told: Callable[[], None]) -> Iterator[None]:
    """Within, signals that ask to end only call `told`: what is half done is being undone, and that must not stop."""
    with _handled_by(lambda _number, _frame: told()):
        yield


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in _ENDING]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)
