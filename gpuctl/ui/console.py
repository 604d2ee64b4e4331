"""Where things are shown: answers on standard output, progress and errors on standard error.

rich is imported only in this folder, and only once something is shown: `gpuctl --help` does not wait for it.
Nothing that is shown is parsed as markup; text from a host goes through `gpuctl.core.text.safe` as well.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDE = 240
"""The width when not on a terminal: a table in a pipe is not cut to 80 columns."""


class _Unfailing:
    """A stream that never fails whoever writes to it; see `unfailing`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError, RuntimeError) as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError, RuntimeError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Turn a stream that is gone into /dev/null: what it still holds must not fail again at exit."""
        if isinstance(error, OSError):
            with suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self._stream.fileno())
                os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unfailing(stream: TextIO) -> TextIO:
    """The same stream, for messages to a person: what cannot be written is silently dropped.

    A terminal that was closed (EIO), a reader that went away (EPIPE), a full disk, a stream closed or written to by a
    signal's handler in mid-write (RuntimeError): none of them may interrupt the work.
    """
    return cast(TextIO, stream if isinstance(stream, _Unfailing) else _Unfailing(stream))


def console(stream: TextIO) -> Console:
    """A console on a stream: plain if it is not a terminal, without colours under NO_COLOR.

    What the stream's encoding cannot write becomes `?`: a host's text must not end a command.
    """
    from rich.console import Console

    class Plain(Console):
        """A console that raises if its reader has gone away (`gpuctl ls | head -1`) instead of ending the process."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    if isinstance(stream, TextIOWrapper) and not (stream.encoding or "").lower().startswith("utf"):
        stream.reconfigure(errors="replace")
    wide = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else WIDE
    return Plain(file=stream, markup=False, emoji=False, highlight=False, width=wide)


def draws(where: Console) -> bool:
    """True where what was written can be written over: on a terminal that is not a dumb one."""
    return where.is_terminal and not where.is_dumb_terminal


def out() -> Console:
    """Standard output."""
    return console(sys.stdout)


def err() -> Console:
    """Standard error."""
    return console(unfailing(sys.stderr))


def show(what: RenderableType) -> None:
    """Put an answer on standard output."""
    _put(out(), what)


def tell(what: RenderableType) -> None:
    """Put something for a person on standard error."""
    _put(err(), what)


def _put(where: Console, what: RenderableType) -> None:
    if where.is_terminal:
        where.print(what)
        return
    with where.capture() as captured:
        where.print(what)
    where.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    where.file.flush()
