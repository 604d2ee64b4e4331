"""Work on several hosts or runs at the same time; Ctrl-C waits for none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 8


def side_by_side(items: Sequence[Item], work: Callable[[Item], Result], *, name: str) -> list[Result]:
    """What the work on each gives, once all of it has ended; the first one's error is raised.

    Where an interrupt ends the wait, nothing more is begun, and what a host holds up does not keep the process: an
    executor's threads would.
    """
    waiting: SimpleQueue[tuple[Item, Future[Result]]] = SimpleQueue()
    futures: list[Future[Result]] = [Future() for _ in items]
    for pair in zip(items, futures, strict=True):
        waiting.put(pair)
    interrupted = threading.Event()

    def work_off() -> None:
        while not interrupted.is_set():
            try:
                item, future = waiting.get_nowait()
            except Empty:
                return
            try:
                future.set_result(work(item))
            except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
                future.set_exception(error)

    for number in range(min(len(items), _AT_ONCE)):
        threading.Thread(target=work_off, name=f"{name} {number}", daemon=True).start()
    try:
        wait(futures)
    except BaseException:
        interrupted.set()
        raise
    return [future.result() for future in futures]
