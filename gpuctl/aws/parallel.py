"""Asking AWS several things at once, and asking again until something is so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

T = TypeVar("T")

FIRST_POLL_S = 0.1
LONGEST_POLL_S = 2.0
_MOST_THREADS = 16


class NotReady(Exception):  # a signal between here and the caller of `poll`, never an error that is shown
    """What is waited for is not so yet."""


def gather(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, in their order. The first one's error, in that order, is raised."""
    if len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(min(len(calls), _MOST_THREADS), thread_name_prefix="aws") as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.result() for future in futures]


def poll(call: Callable[[], T], *, deadline: float, sleep: Callable[[float], None] = time.sleep) -> T:
    """What `call` returns once it raises NotYet no more; that is raised when `deadline` (time.monotonic) has passed."""

    def passed(_: RetryCallState) -> bool:
        return time.monotonic() >= deadline

    retrying = Retrying(
        retry=retry_if_exception_type(NotReady),
        wait=wait_exponential(multiplier=FIRST_POLL_S, min=FIRST_POLL_S, max=LONGEST_POLL_S),
        stop=passed,
        sleep=sleep,
        reraise=True,
    )
    return retrying(call)
