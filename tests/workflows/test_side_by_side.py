"""Several hosts at once: each one's answer in its place, and no wait for a host after Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from gpuctl.workflows.side_by_side import side_by_side

WAITS_FOR_EVER = """
import signal, threading
from gpuctl.workflows.side_by_side import side_by_side

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it

def work(number):
    print("begun", number, flush=True)
    threading.Event().wait()

side_by_side(range(20), lambda number: side_by_side([number, number], work, name="hosts"), name="down")
"""


def test_each_gives_its_answer_in_its_place() -> None:
    """More than are worked on at the same time, and none."""
    assert side_by_side(range(30), lambda number: number * 2, name="hosts") == [n * 2 for n in range(30)]
    assert side_by_side([], lambda number: number, name="hosts") == []


def test_the_first_ones_error_is_raised_once_all_have_ended() -> None:
    """What comes home of the others is not cut off."""
    ended, hold = [], threading.Event()

    def work(number: int) -> None:
        if number == 2:
            hold.set()
            raise ValueError("two")
        if number == 1:
            hold.wait(20)
            time.sleep(0.2)
            raise ValueError("one")
        ended.append(number)

    with pytest.raises(ValueError, match="one"):
        side_by_side([0, 1, 2, 3], work, name="hosts")
    assert sorted(ended) == [0, 3]


def test_ctrl_c_waits_for_no_host() -> None:
    """Hosts that never answer keep neither the command nor the interpreter's end, however deep they are waited for."""
    with subprocess.Popen([sys.executable, "-c", WAITS_FOR_EVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        assert it.stdout is not None
        for _ in range(16):
            it.stdout.readline()
        it.send_signal(signal.SIGINT)
        try:
            rest, error = it.communicate(timeout=60)
        finally:
            it.kill()
    assert b"KeyboardInterrupt" in error and rest == b""
