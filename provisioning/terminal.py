"""The pane: what of the command's output a person sees in tmux. It never holds training up, and nothing drives it."""

from __future__ import annotations

import codecs
import os
import re
import termios
from typing import Optional

_KEPT = 1 << 18
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Text whose control characters, but for newline, tab and carriage return, are shown and not obeyed."""
    return _CONTROL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "^" + chr(code ^ 0x40) if code < 0x80 else "\ufffd"


class Pane:
    """A terminal that is written to only as fast as it reads.

    It has an open file of its own: non-blocking is a property of the open file, and the command reads from the other.
    """

    def __init__(self, terminal: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = bytearray()
        self.descriptor: Optional[int] = None
        try:
            self.descriptor = os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return  # no terminal: the log has everything

    @property
    def wants_to_write(self) -> bool:
        """True while something waits to be shown."""
        return self.descriptor is not None and bool(self._waiting)

    def show(self, data: bytes) -> None:
        """Show the command's output. Of what comes faster than the terminal reads, the newest is kept."""
        if self.descriptor is None:
            return
        self._waiting += harmless(self._decoder.decode(data)).encode("utf-8")
        if len(self._waiting) > _KEPT:
            del self._waiting[: len(self._waiting) - _KEPT]
        self.write()

    def write(self) -> None:
        """Write what the terminal takes now."""
        while self.wants_to_write:
            assert self.descriptor is not None
            try:
                written = os.write(self.descriptor, self._waiting[: 1 << 14])
            except BlockingIOError:
                return
            except OSError:
                self.descriptor = None  # the terminal is gone
                return
            del self._waiting[:written]


def keep_keys_harmless(terminal: int) -> None:
    """C-z and C-s would halt training unseen; C-c and C-\\ stay what they are."""
    try:
        settings = termios.tcgetattr(terminal)
        settings[0] &= ~termios.IXON
        settings[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(terminal, termios.TCSANOW, settings)
    except termios.error:
        return
