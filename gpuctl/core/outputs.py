"""A run's outputs as values: what a host says there is, what of it is wanted, which names and bytes are believed.

Everything here is made from what a host said, and a host is not trusted: each parser takes any value and answers with a
value. Names are text in the way of `os.fsdecode`: bytes that are not UTF-8 are lone surrogates.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuctl.core.text import safe, shorten

ASIDE = ".gpuctl-part"
"""The folder in DEST in which files are written before they are renamed into place; no output may be named so."""

GROWING = frozenset({"gpuctl/log", "gpuctl/metrics.jsonl"})
"""What is only ever added to while a run lives: a prefix of it is a whole file."""

_LONGEST_PATH = 4096
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class RemoteFile:
    """One output on a host. `complete`: it has been left alone long enough to be taken as it is."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    complete: bool


@dataclass(frozen=True)
class Skipped:
    """An output that does not come home, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Pulled:
    """What is known of an output that came home: the host's size, mtime and inode, and its content's SHA-256 in hex.

    `sha256` is empty where a file was found at home already, the same in size and mtime.
    """

    size: int
    mtime_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True)
class Sent:
    """What a host says of a file it sent. `whole`: it did not change while it was read."""

    path: str
    size: int
    sha256: str
    whole: bool


@dataclass(frozen=True)
class AtHome:
    """A regular file in DEST."""

    size: int
    mtime_ns: int


def parse_file(event: Mapping[str, object]) -> RemoteFile | None:
    """A manifest's `file` event, or None where it is not one."""
    path, size, mtime_ns, inode = event.get("path"), event.get("size"), event.get("mtime_ns"), event.get("inode")
    if not isinstance(path, str) or not (_natural(size) and _natural(mtime_ns) and _natural(inode)):
        return None
    return RemoteFile(path, int(str(size)), int(str(mtime_ns)), int(str(inode)), event.get("complete") is True)


def parse_skipped(event: Mapping[str, object]) -> Skipped | None:
    """A manifest's `skipped` event, or None where it is not one."""
    path, why = event.get("path"), event.get("why")
    return Skipped(path, printable(why)) if isinstance(path, str) and isinstance(why, str) else None


def parse_sent(event: Mapping[str, object]) -> Sent | None:
    """A `sent` event, or None where it is not one."""
    path, size, sha256 = event.get("path"), event.get("size"), event.get("sha256")
    if not isinstance(path, str) or not _natural(size) or not isinstance(sha256, str):
        return None
    return Sent(path, int(str(size)), sha256, event.get("whole") is True)


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def refusal(path: str) -> str | None:
    """Why a name from a host cannot be written below DEST, or None where it can."""
    if not path:
        return "its name is empty"
    if "\0" in path:
        return "its name holds a NUL"
    if path.startswith("/"):
        return "its name is an absolute path"
    parts = path.split("/")
    if ".." in parts:
        return "its name leads out of the folder"
    if "" in parts or "." in parts:
        return "its name is not a plain path"
    if parts[0].casefold() == ASIDE:
        return f"{ASIDE} is gpuctl's own"
    try:
        encoded = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "its name is no file name"
    return "its name is too long" if len(encoded) > _LONGEST_PATH else None


def is_unchanged(file: RemoteFile, known: Pulled | None, home: AtHome | None) -> bool:
    """True where the file at home is this very file, so that nothing need come.

    What was pulled is known by size, mtime and inode. Without that knowledge (a pull that was cut, another laptop) a
    file at home with the host's size and mtime to the nanosecond is taken for it: a pull sets them.
    """
    if home is None or home.size != file.size:
        return False
    if known is not None and (known.size, known.mtime_ns) == (file.size, file.mtime_ns):
        return known.inode == file.inode
    return home.mtime_ns == file.mtime_ns


def is_whole(file: RemoteFile, sent: Sent | None, *, size: int, sha256: str, mtime_s: float) -> bool:
    """True where what came (its size, SHA-256 and the stream's mtime) is the very file that the manifest named."""
    if sent is None or (sent.path, sent.size, sent.sha256) != (file.path, size, sha256):
        return False
    if file.path in GROWING:
        return True
    # A float holds a time of our days to about a quarter of a microsecond.
    return sent.whole and size == file.size and abs(mtime_s - file.mtime_ns / 1e9) < 1e-5


def collisions(paths: Iterable[str]) -> dict[str, str]:
    """On a disk that does not tell `A` from `a`: each name that an earlier one already stands for, with that one."""
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for path in paths:
        key = unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
        if first.setdefault(key, path) != path:
            found[path] = first[key]
    return found


def printable(text: str, *, limit: int = 300) -> str:
    """Text from a host as one line that is safe to show, at most `limit` characters."""
    return shorten(safe(text[: 4 * limit]), limit)
