"""`gpuctl watch` on a real terminal, which is as it was before however the command is ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

LEADER = """
import fcntl, json, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
before = termios.tcgetattr(0)
watch = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdin=0, stdout=0, stderr=0)
print(watch.pid, flush=True)
code = watch.wait()
try:
    same = termios.tcgetattr(0) == before
except termios.error:
    same = None
print(json.dumps([code, same]), flush=True)
"""
"""Has the terminal, as a shell has it, and says how the watch in it ended and whether the settings are the same."""

WATCH = """
import os, signal, sys, threading, time, types
from gpuctl.workflows import follow, hosts
from gpuctl.cli import watch


class Follower:
    no_losses, losses = False, types.SimpleNamespace(points=[])

    def __init__(self, run, gpus):
        self.run = run

    def history(self, lines):
        return []

    def updates(self, on_lost):
        if sys.argv[1:] == ["tells"]:
            self.run.tell("the disk is full")
        while True:
            time.sleep(0.05)
            yield follow.Update()


def interrupted_again(function):
    def called(*given, **named):
        os.kill(os.getpid(), signal.SIGINT)
        return function(*given, **named)

    return called


if sys.argv[1:] == ["again"]:
    from rich.live import Live

    Live.stop = interrupted_again(Live.stop)
    threading.Thread.join = interrupted_again(threading.Thread.join)
follow.Follower = Follower
hosts.running_costs = lambda run: types.SimpleNamespace(price_usd_per_hour=None, since=None, lease_ends=None)
watch.command.callback.__wrapped__(hosts.RunHandle("some-run", None, None, None, tell=print))
"""


@dataclass
class Watched:
    """A watch on a terminal of its own: the terminal's other side, the shell's process, the watch's number."""

    terminal: int
    shell: subprocess.Popen[str]
    pid: int
    seen: bytes = b""

    def read_until(self, wanted: bytes) -> None:
        """Read what is shown until that is there."""
        end = time.monotonic() + 15
        while wanted not in self.seen:
            assert self._read(max(0.0, end - time.monotonic())), self.seen
        assert wanted in self.seen

    def ended(self) -> tuple[int, bool | None]:
        """Its exit code, and whether the terminal's settings are those from before (None: it is closed)."""
        end = time.monotonic() + 15
        assert self.shell.stdout is not None
        while not select.select([self.shell.stdout], [], [], 0.05)[0]:
            assert time.monotonic() < end, self.seen
            self._read(0)
        while self._read(0):
            pass
        code, same = json.loads(self.shell.stdout.readline())
        return code, same

    def _read(self, within_s: float) -> bool:
        if not select.select([self.terminal], [], [], within_s)[0]:
            return False
        try:
            data = os.read(self.terminal, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)


def watched(*how: str) -> Watched:
    """A watch that has begun to draw."""
    ours, its = os.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-c", LEADER, WATCH, *how],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    os.close(its)
    assert shell.stdout is not None
    begun = Watched(ours, shell, int(shell.stdout.readline()))
    begun.read_until(b"some-run")
    assert b"\x1b[?1049h" in begun.seen
    return begun


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGTERM, ()), (signal.SIGHUP, ()), (signal.SIGINT, ()), (signal.SIGINT, ("again",)), (None, ("again",))],
    ids=["SIGTERM", "SIGHUP", "Ctrl-C", "Ctrl-C again and again", "q and Ctrl-C"],
)
def test_the_terminal_is_as_before(number: signal.Signals | None, how: tuple[str, ...]) -> None:
    """Its settings are, the alternate screen is left, the cursor shown, and the run's next commands are told."""
    watch = watched(*how)
    try:
        if number is None:
            os.write(watch.terminal, b"q")
        else:
            os.kill(watch.pid, number)
        assert watch.ended() == (0, True), watch.seen
        after = watch.seen.rpartition(b"\x1b[?1049l")[2]
        assert b"\x1b[?1049l" in watch.seen and b"\x1b[?1049h" not in after
        assert watch.seen.rfind(b"\x1b[?25h") > watch.seen.rfind(b"\x1b[?25l")
        assert b"some-run keeps running" in after
    finally:
        watch.shell.kill()
        watch.shell.communicate()
        os.close(watch.terminal)


def test_what_the_run_says_is_a_notice_and_stays_after_the_view() -> None:
    """It stands in the view while that is drawn, and once on the terminal where the view has been."""
    watch = watched("tells")
    try:
        watch.read_until(b"the disk is full")
        assert b"\x1b[?1049l" not in watch.seen
        os.kill(watch.pid, signal.SIGINT)
        assert watch.ended() == (0, True)
        after = watch.seen.rpartition(b"\x1b[?1049l")[2]
        assert b"the disk is full\r\nsome-run keeps running" in after
    finally:
        watch.shell.kill()
        watch.shell.communicate()
        os.close(watch.terminal)
