"""What reads the bytes of strangers, and whether it stands what they may be."""

from __future__ import annotations

import random
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mutator import mutated

from gpuctl.core.errors import GpuctlError

MOST_CPU_S = 5.0
MOST_GROWN = 160 * 1024 * 1024
_KIB = 1 if sys.platform == "darwin" else 1024
_LONGEST_MESSAGE = 3000
_SHRINK_S = 20.0
_LEAST = 20

Read = Callable[[bytes], object]
"""Reads bytes as gpuctl does, and looks at the value that it gets."""


@dataclass(frozen=True)
class Parser:
    """One border: whose bytes it reads, examples of them, and what it raises where it does not take them.

    Some of the examples are `good`: they are taken.
    """

    name: str
    examples: tuple[bytes, ...]
    opened: Callable[[Path, ExitStack], Read]
    refuses: tuple[type[Exception], ...] = (GpuctlError,)
    good: bool = True


@dataclass(frozen=True)
class Tried:
    """How many inputs were tried, how many of them were refused, and by how many bytes memory grew."""

    inputs: int
    refused: int
    grown: int


class Hung(BaseException):
    """An input took too much time of the processor; nothing in between catches it."""


class Broken(AssertionError):
    """An input that is neither taken nor refused."""


class Stranger:
    """A server on loopback that says the same bytes to whoever comes, one after the other."""

    def __init__(self, stack: ExitStack, *, listens_first: bool = False) -> None:
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self._listener.getsockname()[1]
        self.says, self._listens_first = b"", listens_first
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, suppress(OSError):
                if self._listens_first:
                    peer.recv(65536)
                peer.sendall(self.says)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass


def plain(read: Read) -> Callable[[Path, ExitStack], Read]:
    """A border that needs no folder and no server."""
    return lambda folder, stack: read


def fuzz(parser: Parser, folder: Path, *, seconds: float, most: int | None = None, first: int = 0) -> Tried:
    """Try inputs for so many seconds, at most so many. Raises Broken, which tells the seed and the smallest input."""
    refused, seed = 0, first
    with ExitStack() as stack:
        read = parser.opened(folder, stack)
        taken = [_wrong(parser, read, example) for example in parser.examples]
        assert set(taken) <= {None, REFUSED} and (None in taken) is parser.good, f"{parser.name}'s examples: {taken}"
        before, end = _forget_peak(), time.monotonic() + seconds
        while seed < first + _LEAST or (time.monotonic() < end and (most is None or seed < first + most)):
            data = mutated(parser.examples, seed)
            why = _wrong(parser, read, data)
            grown = _peak() - before
            if grown > MOST_GROWN:
                why = f"memory grew by {grown / 1e6:.0f} MB"
            if why not in (None, REFUSED):
                smallest = _smallest(parser, read, data, str(why))
                raise Broken(
                    f"{parser.name}, seed {seed}, {len(data)} bytes: {why}\n"
                    f"the smallest input ({len(smallest)} bytes): {smallest[:3000]!r}"
                )
            refused += why == REFUSED
            seed += 1
        return Tried(seed - first, refused, max(0, _peak() - before))


REFUSED = "refused"


def _wrong(parser: Parser, read: Read, data: bytes) -> str | None:
    """What is wrong with how it takes this input; REFUSED or None where nothing is."""
    try:
        with _limited():
            read(data)
    except parser.refuses as error:
        text = str(error)
        if isinstance(error, GpuctlError) and not (text.isprintable() and 0 < len(text) < _LONGEST_MESSAGE):
            return f"no line to show: {text[:300]!r} ({len(text)} characters)"
        return REFUSED
    except Hung:
        return "it hangs"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    return None


def _smallest(parser: Parser, read: Read, data: bytes, why: str) -> bytes:
    """The input with as much left out as can be; the same kind of thing still goes wrong with it."""
    kind, end = why.split(":")[0].split(" (")[0], time.monotonic() + _SHRINK_S
    size = len(data) // 2
    while size and time.monotonic() < end:
        start = 0
        while start < len(data) and time.monotonic() < end:
            shorter = data[:start] + data[start + size :]
            if str(_wrong(parser, read, shorter)).startswith(kind):
                data = shorter
            else:
                start += size
        size //= 2
    return data


@contextmanager
def _limited() -> Iterator[None]:
    """Within, more than MOST_CPU_S of this process's time raises Hung."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _forget_peak() -> int:
    """What there is of memory, and from now on the most that there is counts."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    return _peak()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def pieces(data: bytes) -> list[bytes]:
    """The bytes as a network cuts them: the same for the same bytes."""
    rng, cut, at = random.Random(len(data)), [], 0
    while at < len(data):
        size = rng.choice([1, 7, 100, 5000, 65536])
        cut.append(data[at : at + size])
        at += size
    return cut
