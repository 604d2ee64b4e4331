"""A file that grows on a host, as far as it is here. Any number of gpuctl processes may keep one copy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

_READ_SIZE = 1 << 20
_LOCK_S = 30.0
_END_SIZE = 1 << 20
_LINE_SIZE = 1 << 11
"""A log's last lines are looked for in its last MiB, or 2 KiB for each of them."""


class LocalCopy:
    """The beginning of a host's file. Whoever keeps it adds what continues it, under a lock, and nothing else.

    So it never has a hole, whoever else follows the run, ends in the middle of a write, or is slow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_S)

    def size(self) -> int:
        """Its length in bytes; 0 where there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def pieces(self) -> Iterator[bytes]:
        """All that is here."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            while data := file.read(_READ_SIZE):
                yield data

    def start_of_last(self, lines: int) -> int:
        """Where the last `lines` whole lines begin; if those are huge, a line's start as far back as is looked."""
        at = self.size()
        furthest = max(0, at - max(_END_SIZE, lines * _LINE_SIZE))
        wanted = lines + 1
        while at > furthest:
            begin = max(furthest, at - _READ_SIZE)
            data = self._at(begin, at - begin)
            if (there := data.count(b"\n")) >= wanted:
                return begin + [end.end() for end in re.finditer(b"\n", data)][-wanted]
            wanted, at = wanted - there, begin
        if furthest == 0:
            return 0
        first = re.search(rb"[\r\n]", self._at(furthest, _READ_SIZE))
        return furthest + (first.end() if first else 0)

    def end(self, size: int) -> bytes:
        """So many of its last bytes; nothing where there is none."""
        try:
            return self._at(max(0, self.size() - size), size)
        except FileNotFoundError:
            return b""

    def _at(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def add(self, offset: int, data: bytes) -> None:
        """Keep of these bytes what continues the copy; what would leave a gap is not kept. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock:
            here = self.size()
            if offset <= here < offset + len(data):
                with self.path.open("ab") as file:
                    file.write(data[here - offset :])

    def mend(self, offset: int, data: bytes) -> None:
        """Put these bytes, which are the host's, in the place of those that are here. Raises OSError."""
        with self._lock:
            if offset <= self.size():
                with self.path.open("r+b" if self.path.exists() else "wb") as file:
                    file.seek(offset)
                    file.write(data)

    def cut(self, size: int) -> None:
        """What is here beyond that size is not the host's. Raises OSError."""
        with self._lock:
            if self.size() > size:
                os.truncate(self.path, size)

    def clear(self) -> None:
        """Begin anew: the host's file is another one. Raises OSError."""
        with self._lock, self.path.open("wb"):
            pass
