"""A tar stream from a host, member by member, in bounded memory and of bounded length whatever the host sends."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol, cast

from gpuctl.core.errors import GpuctlError, HostError
from gpuctl.remote.host import Reader
from gpuctl.remote.session import CHUNK

_READ_AHEAD = 128 * 1024
_MOST_HEADER = _READ_AHEAD + 64 * 1024
_MOST_BESIDE = 32 * 1024
"""Bytes of a stream for each of its files beside what the file holds: headers with a long name, padding."""
MOST_UNASKED = 256 * 1024**2
"""Bytes beyond twice what was asked for: a file that was rewritten meanwhile comes as long as it is by then."""


class NoTarStream(Exception):
    """What came is no tar stream that can be read."""


class BoundedReader:
    """The stream that tarfile reads. A member's headers are held in memory whole, so a host may not make them long.

    `files` and `size` are what was asked for: a stream that goes on beyond that has no end.
    """

    def __init__(self, stream: Reader, name: str, *, files: int, size: int) -> None:
        self._stream = stream
        self._name = name
        self._rest = 2 * size + files * _MOST_BESIDE + MOST_UNASKED
        self.ended = False
        self.left: int | None = _MOST_HEADER

    def may_hold(self, member: tarfile.TarInfo) -> bool:
        """False of a member that goes on beyond the stream's end."""
        return member.size + _MOST_BESIDE <= self._rest

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.ended = not data
        self._rest -= len(data)
        if self._rest < 0:
            raise HostError(f"{self._name} sends more than it was asked for", "try again")
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise HostError(f"{self._name} sent a tar header without end", "try again")
        return data


class Content(Protocol):
    """A member's bytes: `read` gives at most so many, and nothing at the end."""

    def read(self, size: int = ..., /) -> bytes: ...


class _Content:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = CHUNK, /) -> bytes:
        with _readable():
            return self._file.read(size)


@contextmanager
def _readable() -> Iterator[None]:
    """Whatever tarfile raises of headers that make no sense (its own errors and ValueError, struct.error, …)."""
    try:
        yield
    except GpuctlError:
        raise
    except Exception as error:
        raise NoTarStream(str(error)) from error


def members(source: BoundedReader) -> Iterator[tuple[tarfile.TarInfo, Content | None]]:
    """Each member, and its bytes where it is a regular file; they are to be read before the next one is asked for.

    Reads the stream to its end. Raises NoTarStream where it is none, HostError where a header or the stream has no end.
    """
    with _readable():
        tar = tarfile.open(  # noqa: SIM115 - nothing of it is to be closed but the stream, which is the caller's
            fileobj=cast("IO[bytes]", source),
            mode="r|",
            bufsize=_READ_AHEAD,
            encoding="utf-8",
            errors="surrogateescape",
        )
    while (found := _next_member(tar, source)) is not None:
        yield found
        with _readable():
            _skip_rest(tar)
    while source.read(CHUNK):
        pass


def _next_member(tar: tarfile.TarFile, source: BoundedReader) -> tuple[tarfile.TarInfo, Content | None] | None:
    if tar.offset == 0:  # opening it found no member, and on Python 3.10 the next look would fail
        return None
    source.left = _MOST_HEADER
    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
    try:
        with _readable():
            member = tar.next()
            content = tar.extractfile(member) if member is not None and member.isreg() else None
    finally:
        source.left = None
    return None if member is None else (member, None if content is None else _Content(content))


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
