"""Files across: a workspace in, as a gzipped tar; outputs out, as a tar of which every file's checksum is told."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Optional

from provisioning.listing import LOG, METRICS, check_path, open_beneath, output_file
from provisioning.outputs import StableCheck
from provisioning.paths import Paths, read_json, write_json
from provisioning.processes import held_files
from provisioning.protocol import Channel, PayloadError
from provisioning.state import read_state

_CHUNK = 1 << 18
_BLOCK = tarfile.BLOCKSIZE


class Gunzip:
    """A gzip stream's content. It stops at the stream's own end: a sender may keep the line open."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._ready = bytearray()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end. Raises PayloadError where the stream is cut short or broken."""
        while len(self._ready) < size and not self._inflate.eof:
            data = self._source.read1(_CHUNK)  # type: ignore[attr-defined]  # BufferedReader's, which BinaryIO hides
            if not data:
                raise PayloadError("the workspace did not arrive whole: the connection ended", "launch again")
            try:
                self._ready += self._inflate.decompress(data)
            except zlib.error as error:
                raise PayloadError(f"the workspace did not arrive whole: {error}", "launch again") from error
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def finish(self) -> None:
        """Read to the end, where gzip's own checksum is."""
        while self.read(_CHUNK):
            pass


def unpack(body: BinaryIO, paths: Paths) -> int:
    """Replace the workspace's code by a gzipped tar; what the command wrote stays. Answers how many files came.

    All of it arrives beside the workspace before any of it takes its place. Raises PayloadError, OSError.
    """
    shutil.rmtree(paths.incoming, ignore_errors=True)
    paths.incoming.mkdir(mode=0o755)
    paths.work.mkdir(mode=0o755, exist_ok=True)
    content = Gunzip(body)
    code: dict[str, list[Any]] = {}
    folders: list[str] = []
    try:
        with tarfile.open(fileobj=content, mode="r|", errors="surrogateescape", encoding="utf-8") as archive:  # type: ignore[call-overload]
            for member in archive:
                _receive(archive, member, paths.incoming, code, folders)
    except tarfile.TarError as error:
        raise PayloadError(f"the workspace did not arrive whole: {error}", "launch again") from error
    content.finish()
    _remove_stale(paths, code)
    for path in code:
        _put_in_place(paths, path)
    for path in folders:
        _make_folder(paths, path)
    write_json(paths.code, code)
    shutil.rmtree(paths.incoming, ignore_errors=True)
    return len(code)


def _receive(
    archive: tarfile.TarFile, member: tarfile.TarInfo, incoming: Path, code: dict[str, list[Any]], folders: list[str]
) -> None:
    path = str(PurePosixPath(member.name))
    if path == ".":
        return
    target = incoming / check_path(path)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        folders.append(path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        if _leaves(path, member.linkname):
            raise PayloadError(f"{path!r} is a link that leaves the workspace, to {member.linkname!r}")
        target.symlink_to(member.linkname)
        status, told = target.lstat(), []
    elif member.isreg():
        source = archive.extractfile(member)
        assert source is not None
        digest = hashlib.sha256()
        with open(target, "xb") as file:
            while data := source.read(_CHUNK):
                digest.update(data)
                file.write(data)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
        os.utime(target, (member.mtime, member.mtime))
        status, told = target.stat(), [digest.hexdigest()]
    else:
        raise PayloadError(f"{path!r} in the workspace is neither a file, a folder nor a link")
    code[path] = [status.st_size, status.st_mtime_ns, *told]


def _leaves(path: str, link: str) -> bool:
    if PurePosixPath(link).is_absolute():
        return True
    return os.path.normpath(os.path.join(os.path.dirname(path), link)).split("/")[0] == ".."


def _remove_stale(paths: Paths, code: dict[str, list[Any]]) -> None:
    """Remove code of an earlier workspace that this one no longer has, and folders that are empty now."""
    for path in read_json(paths.code) or {}:
        if path not in code:
            gone = paths.work / check_path(path)
            try:
                gone.unlink(missing_ok=True)
                for folder in gone.parents:
                    if folder == paths.work:
                        break
                    folder.rmdir()
            except OSError:
                continue


def _refuse_links(folder: Path, parts: Sequence[str]) -> None:
    for part in parts:
        folder = folder / part
        if folder.is_symlink():
            raise PayloadError(f"{folder} on the host is a link, where the workspace has a folder", "remove it there")


def _make_folder(paths: Paths, path: str) -> None:
    _refuse_links(paths.work, PurePosixPath(path).parts)
    (paths.work / path).mkdir(parents=True, exist_ok=True)


def _put_in_place(paths: Paths, path: str) -> None:
    target = paths.work / path
    _refuse_links(paths.work, PurePosixPath(path).parts[:-1])
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        target.rmdir()
    os.replace(paths.incoming / path, target)


class TarStream:
    """Standard output as a tar stream.

    Whatever was said of the files that are in it goes out before it: a reader waits for that word before it reads on.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        """Add to the stream."""
        self._waiting += data
        if len(self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Put all of it on the wire."""
        self._channel.flush()
        rest = memoryview(bytes(self._waiting))
        self._waiting.clear()
        while rest:
            rest = rest[os.write(1, rest) :]


def send_verb(paths: Paths, channel: Channel) -> int:
    """Send files as one tar stream on standard output, and what each was on standard error."""
    named = channel.read_request().texts("paths")
    settled = StableCheck(read_state(paths.last_begun()), held_files())
    tar = TarStream(channel)
    files = sum(_send_one(paths, path, tar=tar, settled=settled, channel=channel) for path in named)
    tar.write(b"\0" * (_BLOCK * 2))
    tar.flush()
    channel.emit("done", files=files)
    return 0


def _send_one(paths: Paths, path: str, *, tar: TarStream, settled: StableCheck, channel: Channel) -> int:
    """Send one file; 0 where it is not there to be sent."""
    try:
        descriptor = _open_output(paths, path)
    except (OSError, PayloadError) as error:
        channel.queue("skipped", path=path, why=str(getattr(error, "strerror", None) or error))
        return 0
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            channel.queue("skipped", path=path, why="not a regular file")
            return 0
        tar.write(_header(path, before))
        missing, sha256, broken = _copy(descriptor, tar, before.st_size)
        _pad(tar, missing + -before.st_size % _BLOCK)
        whole = not missing and _is_whole(path, before, os.fstat(descriptor), settled)
    finally:
        os.close(descriptor)
    channel.queue("sent", path=path, size=before.st_size, sha256=sha256, whole=whole)
    if broken is not None:
        channel.queue("skipped", path=path, why=f"cannot be read to its end: {broken}")
    return 1


def _open_output(paths: Paths, path: str) -> int:
    # Non-blocking: a fifo that has taken a file's place must not hold the rest up.
    flags = os.O_RDONLY | os.O_NONBLOCK
    if path in (LOG, METRICS):
        return os.open(paths.log if path == LOG else paths.metrics, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    return open_beneath(paths.work, path, flags)


def _header(path: str, status: os.stat_result) -> bytes:
    member = tarfile.TarInfo(path)
    member.size = status.st_size
    member.mtime = status.st_mtime_ns / 1e9  # a fraction, which pax carries: who receives it tells versions by it
    member.mode = 0o755 if status.st_mode & 0o100 else 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _copy(descriptor: int, tar: TarStream, size: int) -> tuple[int, str, Optional[str]]:
    """Copy `size` bytes. Answers how many of them were not there any more, and the checksum of all as sent.

    Last, what the disk said where it did not give the rest: one bad block loses one file, and no others.
    """
    sha256 = hashlib.sha256()
    missing, broken = size, None
    while missing:
        try:
            data = os.read(descriptor, min(missing, _CHUNK))
        except OSError as error:
            broken = str(error.strerror)
            break
        if not data:
            break
        sha256.update(data)
        tar.write(data)
        missing -= len(data)
    for zeros in _zeros(missing):
        sha256.update(zeros)
    return missing, sha256.hexdigest(), broken


def _pad(tar: TarStream, size: int) -> None:
    for zeros in _zeros(size):
        tar.write(zeros)


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        yield bytes(min(size, _CHUNK))
        size -= _CHUNK


def _is_whole(path: str, before: os.stat_result, after: os.stat_result, settled: StableCheck) -> bool:
    if path in (LOG, METRICS):
        return True  # they only grow, and what there was of them was sent
    first, last = output_file(path, before), output_file(path, after)
    return first == last and settled(last)
