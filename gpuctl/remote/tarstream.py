"""A tar stream from a host, member by member, in bounded memory whatever the host sends."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, cast

from gpuctl.core.errors import HostError
from gpuctl.remote.host import Reader
from gpuctl.remote.session import CHUNK

_READ_AHEAD = 128 * 1024
_MOST_HEADER = _READ_AHEAD + 64 * 1024


class BoundedReader:
    """The stream that tarfile reads. A member's headers are held in memory whole, so a host may not make them long."""

    def __init__(self, stream: Reader, name: str) -> None:
        self._stream = stream
        self._name = name
        self.ended = False
        self.left: int | None = _MOST_HEADER

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.ended = not data
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise HostError(f"{self._name} sent a tar header without end", "try again")
        return data


def members(source: BoundedReader) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Each member, and its bytes where it is a regular file; they are to be read before the next one is asked for.

    Reads the stream to its end. Raises tarfile.TarError where it is no tar stream, HostError where a header has no end.
    """
    with tarfile.open(
        fileobj=cast("IO[bytes]", source), mode="r|", bufsize=_READ_AHEAD, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        while (member := _next_member(tar, source)) is not None:
            yield member, tar.extractfile(member) if member.isreg() else None
            _skip_rest(tar)
    while source.read(CHUNK):
        pass


def _next_member(tar: tarfile.TarFile, source: BoundedReader) -> tarfile.TarInfo | None:
    if tar.offset == 0:  # opening it found no member, and on Python 3.10 the next look would fail
        return None
    source.left = _MOST_HEADER
    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
    try:
        return tar.next()
    finally:
        source.left = None


def _skip_rest(tar: tarfile.TarFile) -> None:
    """Reads to the next member. tarfile does so by itself, and turns for ever where a size is a lie."""
    stream = tar.fileobj
    assert stream is not None
    rest = tar.offset - stream.tell()
    while rest > 0:
        data = stream.read(min(rest, CHUNK))
        if not data:
            raise tarfile.ReadError("unexpected end of data")
        rest -= len(data)
