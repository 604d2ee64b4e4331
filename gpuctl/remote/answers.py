"""What a host says beside a tar stream, of each file that is in it."""

from __future__ import annotations

import queue
import threading
from types import TracebackType

from gpuctl.core.errors import GpuctlError
from gpuctl.core.outputs import Sent, parse_sent, parse_skipped
from gpuctl.remote.host import Streams
from gpuctl.remote.protocol import Event

MOST_REFUSALS = 500_000


class Answers:
    """What the host says beside the stream, read by a thread: for each file whether it came whole."""

    _MOST_AHEAD = 10_000

    def __init__(self, streams: Streams, name: str) -> None:
        self._streams = streams
        self._name = name
        self._said: queue.Queue[Event | GpuctlError | None] = queue.Queue(self._MOST_AHEAD)
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
        while (event := self._next()) is not None:
            sent = parse_sent(event) if event["event"] == "sent" else None
            if sent is not None and sent.path == path:
                return sent
        return None

    def finish(self) -> None:
        """Reads to the end. Raises what the host said went wrong."""
        while self._next() is not None:
            pass
        self._streams.session.result(self._last)

    def _next(self) -> Event | None:
        if self._ended:
            return None
        said = self._said.get()
        if isinstance(said, GpuctlError):
            self._ended = True
            raise said
        if said is None:
            self._ended = True
        else:
            self._last = said
            skipped = parse_skipped(said) if said["event"] == "skipped" else None
            if skipped is not None and len(self.refused) < MOST_REFUSALS:
                self.refused[skipped.path] = skipped.why
        return said

    def _read(self) -> None:
        try:
            for event in self._streams.session.events(read=self._streams.stderr.read):
                self._put(event)
        except GpuctlError as error:
            self._put(error)
        else:
            self._put(None)

    def _put(self, said: Event | GpuctlError | None) -> None:
        while not self._closing:
            try:
                self._said.put(said, timeout=0.2)
            except queue.Full:
                continue
            return
