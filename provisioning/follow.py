"""The log and the metrics as they grow, from a byte offset on: a connection that broke goes on where it was."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Optional

from provisioning.paths import Paths
from provisioning.protocol import ALIVE_S, Channel
from provisioning.state import describe, look_at_gpus, read_state

_LOOK_S = 0.03
_OVER_EVERY = 4
_GPUS_EVERY_S = 10.0
_FIRST_LOOKS = 3
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 20
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
        """Whole lines at the offset; a line without end is given up at 1 MiB."""
        size = _CHUNK
        while True:
            data = self.read(size)
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                return data[:end]
            if size >= _LONGEST_LINE:
                return data
            size *= 4


class GpuLooks:
    """What `nvidia-smi` says every ten seconds, asked in a thread of its own as it takes seconds.

    Where the first looks find no GPU there is none; one that answers no more is told, by an empty list.
    """

    def __init__(self) -> None:
        self._found: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()
        with suppress(RuntimeError):  # the command has used up all threads
            threading.Thread(target=self._look, name="gpus", daemon=True).start()

    def _look(self) -> None:
        before: Optional[list[dict[str, Any]]] = None
        for looks in itertools.count(1):
            found = look_at_gpus()
            if found or before:
                self._found.put(found)
                before = found
            elif before is None and looks == _FIRST_LOOKS:
                return
            time.sleep(_GPUS_EVERY_S)

    def send(self, channel: Channel) -> None:
        """Send what has been seen since."""
        while not self._found.empty():
            channel.emit("gpus", gpus=self._found.get())


def follow_verb(paths: Paths, channel: Channel) -> int:
    """Send what comes until training has ended and all of it is sent, or only what there is."""
    request = channel.read_request()
    log = Tail(paths.log, int(request.number("log_offset", 0)))
    metrics = Tail(paths.metrics, int(request.number("metrics_offset", 0)))
    until_end = request.flag("until_end")
    for name, tail in (("log", log), ("metrics", metrics)):
        _compare(channel, name, tail, request.fields.get(f"{name}_sha256"))
    gpus = GpuLooks() if request.flag("gpus") else None
    said = time.monotonic()
    looks = 0
    over = False
    while True:
        # Whether it is over is asked first: what is read after that is the last there will be.
        if looks % _OVER_EVERY == 0:
            over = not until_end or read_state(paths).over
        looks += 1
        if gpus is not None:
            gpus.send(channel)
        if _send_new(channel, log, metrics):
            said = time.monotonic()
            continue
        if over:
            break
        if time.monotonic() - said >= ALIVE_S:
            channel.emit("alive")
            said = time.monotonic()
        time.sleep(_LOOK_S)
    channel.emit("end", state=describe(paths))
    return 0


def _compare(channel: Channel, name: str, tail: Tail, sha256: object) -> None:
    """Where the laptop's copy is not how this file begins, say so and begin at 0."""
    said = time.monotonic()

    def still_here() -> None:
        nonlocal said
        if time.monotonic() - said >= ALIVE_S:
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
