"""One key that ends a view that is drawn over the whole terminal."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def leaves_on_q(fd: int | None = None) -> Iterator[None]:
    """While this lasts, `q` does what Ctrl-C does, where the keyboard (default: standard input) is a terminal's."""
    keyboard = _keyboard() if fd is None else fd
    if keyboard is None:
        yield
        return
    before = termios.tcgetattr(keyboard)
    woken, wake = os.pipe()
    reader = threading.Thread(target=_wait_for_q, args=(keyboard, woken), name="keys", daemon=True)
    try:
        try:
            tty.setcbreak(keyboard)
            reader.start()
            yield
        finally:
            with suppress(termios.error):  # a terminal that was closed
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    finally:
        os.close(wake)
        if reader.ident is not None:
            reader.join()
        os.close(woken)


def _keyboard() -> int | None:
    """Standard input, where it is a terminal and this process is in its foreground."""
    try:
        fd = sys.stdin.fileno()
        return fd if os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp() else None
    except (OSError, ValueError, AttributeError):
        return None


def _wait_for_q(keyboard: int, woken: int) -> None:
    while True:
        ready, _, _ = select.select([keyboard, woken], [], [])
        if woken in ready:
            return
        try:
            key = os.read(keyboard, 1)
        except OSError:
            return
        if key in (b"q", b"Q"):
            os.kill(os.getpid(), signal.SIGINT)
        if key in (b"q", b"Q", b""):
            return
