"""The log and the metrics as they grow, from a byte offset on: a connection that broke goes on where it was."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import Callable, Optional

from provisioning.places import Places
from provisioning.protocol import Channel
from provisioning.state import describe, read_state

_LOOK_S = 0.03
_ALIVE_S = 4.0
_OVER_EVERY = 4
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 24
_HASHED_AT_ONCE = 1 << 20


class Tail:
    """One growing file; `offset` is where the next read begins. A file that is shorter than that begins anew."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._descriptor: Optional[int] = None
        self.offset = max(0, offset)

    def read(self, size: int) -> bytes:
        """What there is at the offset, at most `size` bytes; the offset stays."""
        descriptor = self._open()
        if descriptor is None:
            return b""
        length = os.fstat(descriptor).st_size
        if length < self.offset:
            self.offset = 0
        return os.pread(descriptor, size, self.offset) if length > self.offset else b""

    def _open(self) -> Optional[int]:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            except OSError:
                return None
        return self._descriptor

    def begins_with(self, sha256: str, on_piece: Callable[[], None]) -> bool:
        """Whether what is before the offset has that hash; True where there is less, which `read` begins anew."""
        descriptor, digest, at = self._open(), hashlib.sha256(), 0
        while at < self.offset:
            data = b"" if descriptor is None else os.pread(descriptor, min(_HASHED_AT_ONCE, self.offset - at), at)
            if not data:
                return True
            digest.update(data)
            at += len(data)
            on_piece()
        return digest.hexdigest() == sha256

    def lines(self) -> bytes:
        """Whole lines at the offset; a line without end is given up at 16 MiB."""
        size = _CHUNK
        while True:
            data = self.read(size)
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                return data[:end]
            if size >= _LONGEST_LINE:
                return data
            size *= 4


def follow_verb(places: Places, channel: Channel) -> int:
    """Send what comes until training has ended and all of it is sent, or only what there is."""
    request = channel.read_request()
    log = Tail(places.log, int(request.number("log_offset", 0)))
    metrics = Tail(places.metrics, int(request.number("metrics_offset", 0)))
    until_end = request.flag("until_end")
    for name, tail in (("log", log), ("metrics", metrics)):
        _compare(channel, name, tail, request.fields.get(f"{name}_sha256"))
    said = time.monotonic()
    looks = 0
    over = False
    while True:
        # Whether it is over is asked first: what is read after that is the last there will be.
        if looks % _OVER_EVERY == 0:
            over = not until_end or read_state(places).over
        looks += 1
        if _send_new(channel, log, metrics):
            said = time.monotonic()
            continue
        if over:
            break
        if time.monotonic() - said >= _ALIVE_S:
            channel.emit("alive")
            said = time.monotonic()
        time.sleep(_LOOK_S)
    channel.emit("end", state=describe(places))
    return 0


def _compare(channel: Channel, name: str, tail: Tail, sha256: object) -> None:
    """Where the laptop's copy is not how this file begins, say so and begin at 0."""
    said = time.monotonic()

    def still_here() -> None:
        nonlocal said
        if time.monotonic() - said >= _ALIVE_S:
            channel.emit("alive")
            said = time.monotonic()

    if isinstance(sha256, str) and not tail.begins_with(sha256, still_here):
        tail.offset = 0
        channel.emit("differs", file=name)


def _send_new(channel: Channel, log: Tail, metrics: Tail) -> bool:
    """Send what is new in both files, a chunk of each; True where there was anything."""
    sent = False
    for event, tail, data in (("log", log, log.read(_CHUNK)), ("metrics", metrics, metrics.lines())):
        if data:
            channel.queue(event, offset=tail.offset, data=base64.b64encode(data).decode("ascii"))
            tail.offset += len(data)
            sent = True
    channel.flush()
    return sent
