"""What a host says beside a tar stream, of each file that is in it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection
from types import TracebackType

from gpuctl.core.errors import GpuctlError, HostError
from gpuctl.core.outputs import Left, Sent, parse_sent, parse_skipped
from gpuctl.remote.host import Streams
from gpuctl.remote.protocol import Event
from gpuctl.remote.session import TICK_S, HostSilent, waited_s

ANSWER_S = 60.0
"""Seconds within which the host says of a file that has come whether it came whole."""
_HEX_OF_SHA256 = 64
_MOST_UNASKED = 1000


class Answers:
    """What the host says beside the stream, read by a thread: for each file asked for whether it came whole.

    Only words on these files are kept, and not many more are heard than there are files: a host has no more to say.
    """

    _MOST_AHEAD = 10_000

    def __init__(
        self, streams: Streams, name: str, wanted: Collection[str], *, answer_within_s: float = ANSWER_S
    ) -> None:
        self._streams = streams
        self._name = name
        self._wanted = frozenset(wanted)
        self._within_s = answer_within_s
        self._said: queue.Queue[Sent | Left | GpuctlError | None] = queue.Queue(self._MOST_AHEAD)
        self._last: Event | None = None
        self.refused: dict[str, str] = {}
        self._ended = False
        self._closing = False
        self._thread = threading.Thread(target=self._read, name=f"gpuctl sent {name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._streams.session.close()
        self._thread.join(timeout=5)

    def sent(self, path: str) -> Sent | None:
        """The next word on that file, or None where the host ends without one."""
        while (said := self._next()) is not None:
            if isinstance(said, Sent) and said.path == path:
                return said
        return None

    def finish(self) -> None:
        """Reads to the end. Raises what the host said went wrong."""
        while self._next() is not None:
            pass
        self._streams.session.result(self._last)

    def _next(self) -> Sent | Left | None:
        if self._ended:
            return None
        said = self._get()
        if isinstance(said, GpuctlError):
            self._ended = True
            raise said
        if said is None:
            self._ended = True
        elif isinstance(said, Left):
            self.refused[said.path] = said.why
        return said

    def _get(self) -> Sent | Left | GpuctlError | None:
        waited = 0.0
        while waited < self._within_s:
            began = time.monotonic()
            try:
                return self._said.get(timeout=TICK_S)
            except queue.Empty:
                waited += waited_s(TICK_S, since=began)
        raise HostSilent(f"{self._name} did not say whether a file arrived intact", "try again")

    def _read(self) -> None:
        try:
            for count, event in enumerate(self._streams.session.events(read=self._streams.stderr.read)):
                if count > 2 * len(self._wanted) + _MOST_UNASKED:
                    raise HostError(f"{self._name} sent more files than it was asked for", "try again")
                self._last = event
                found = _parse(event)
                if found is not None and found.path in self._wanted:
                    self._put(found)
        except GpuctlError as error:
            self._put(error)
            self._streams.session.close()  # whoever reads the stream meanwhile need not wait for more of it
        else:
            self._put(None)

    def _put(self, said: Sent | Left | GpuctlError | None) -> None:
        while not self._closing:
            try:
                self._said.put(said, timeout=0.2)
            except queue.Full:
                continue
            return


def _parse(event: Event) -> Sent | Left | None:
    """A word on a file, as small as an honest one is."""
    if event["event"] == "sent":
        sent = parse_sent(event)
        return sent if sent is not None and len(sent.sha256) == _HEX_OF_SHA256 else None
    skipped = parse_skipped(event) if event["event"] == "skipped" else None
    return Left(skipped.path, skipped.why) if skipped is not None else None
