"""A run's outputs as values: what a host says there is, what of it is wanted, which names and bytes are believed.

Everything here is made from what a host said, and a host is not trusted: each parser takes any value and answers with a
value. Names are text in the way of `os.fsdecode`: bytes that are not UTF-8 are lone surrogates.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuctl.core.errors import UsageError
from gpuctl.core.text import safe, shorten

ASIDE = ".gpuctl-part"
"""The folder in DEST in which files are written before they are renamed into place; no output may be named so."""

GROWING = frozenset({"gpuctl/log", "gpuctl/metrics.jsonl"})
"""What is only ever added to while a run lives: a prefix of it is a whole file."""

RUNS_ON = "running"
"""The kind of what is no file: a process that outlives the command, and that may write more."""

MARK = "gpuctl/run.json"
"""The file in DEST that says which run's outputs these are."""

MAX_SIZE = 2_000_000_000
"""Bytes: what is larger, and neither a checkpoint nor among the named outputs, is left on the host and asked about."""

_LONGEST_PATH = 4096
_LARGEST = 2**63 - 1
_LATEST = 2**95
"""Nanoseconds: file systems hold times before 1970, and long after 2262."""
_NEVER_WRITTEN = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", ".ssh", ".gnupg", ".aws", ".kube", ".docker"})
_UNSEEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One output on a host. `complete`: it has been left alone long enough to be taken as it is."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A link on a host to a file or folder (`to`) of the same workspace."""

    path: str
    to: str


@dataclass(frozen=True, slots=True)
class Left:
    """What a host does not send: how much it is (None: nobody knows), of what kind, and why.

    With `files` 0 it holds nothing that could be lost.
    """

    path: str
    why: str
    kind: str = ""
    files: int | None = None
    bytes: int = 0


@dataclass(frozen=True)
class RunMark:
    """Whose outputs lie in a folder: a run's name and what tells it from others of that name.

    `own`: the folder was the run's from the start; else it held something already.
    """

    run: str
    id: str
    own: bool = True


@dataclass(frozen=True)
class Wish:
    """What is to come home besides what the job's words say: larger files, or all that the command wrote."""

    max_size: int | None = MAX_SIZE
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is known of an output that came home: the host's size, mtime and inode, and its content's SHA-256 in hex.

    `sha256` is empty where a file was found at home already, the same in size and mtime.
    """

    size: int
    mtime_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True, slots=True)
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
    if not isinstance(path, str) or not (_natural(size) and _natural(inode)):
        return None
    if type(mtime_ns) is not int or abs(mtime_ns) > _LATEST:
        return None
    return RemoteFile(path, int(str(size)), mtime_ns, int(str(inode)), event.get("complete") is True)


def parse_skipped(event: Mapping[str, object]) -> Left | None:
    """A `skipped` event, or None where it is not one. What does not say how much it is may be anything."""
    path, why, kind = event.get("path"), event.get("why"), event.get("kind")
    if not isinstance(path, str) or not isinstance(why, str):
        return None
    files, size = event.get("files"), event.get("bytes")
    return Left(
        path=path,
        why=printable(why),
        kind=kind if isinstance(kind, str) else "",
        files=int(str(files)) if _natural(files) else None,
        bytes=int(str(size)) if _natural(size) else 0,
    )


def parse_link(event: Mapping[str, object]) -> Link | None:
    """A `link` event, or None where it is not one."""
    path, to = event.get("path"), event.get("to")
    return Link(path, to) if isinstance(path, str) and isinstance(to, str) else None


def parse_size(text: str) -> int | None:
    """`10GB`, `500 MB`, `1.5GiB`, `none`: bytes, or None for no limit. Raises UsageError."""
    if text.strip().lower() == "none":
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a size", "write 500MB, 10GB or none")
    number, unit, binary = found.groups()
    power = " kmgt".index(unit.lower()) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def amount(size: int) -> str:
    """A size for people: `2.4 GB`."""
    for unit, least in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} B"


def described(left: Left) -> str:
    """What is left, on one line: `data/ (12 files, 3.2 GB: more than 2 GB, and no checkpoint)`."""
    if left.files is None:
        much = ""
    elif left.files == 1:
        much = f"{amount(left.bytes)}: "
    else:
        much = f"{left.files:,} files, {amount(left.bytes)}: "
    return f"{printable(left.path)} ({much if left.files else ''}{left.why})"


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
        return "its name contains a NUL"
    if path.startswith("/"):
        return "its name is an absolute path"
    parts = path.split("/")
    if ".." in parts:
        return "its name leads out of the folder"
    if "" in parts or "." in parts:
        return "its name is not a plain path"
    if parts[0].casefold() == ASIDE or path.casefold() == MARK:
        return "the name is reserved for gpuctl"
    if any(is_never_written(part) for part in parts):
        return "such a folder may contain commands and is never written"
    try:
        encoded = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "its name is not a valid file name"
    return "its name is too long" if len(encoded) > _LONGEST_PATH else None


def is_never_written(name: str) -> bool:
    """Folders that make programs run commands, however a disk folds their names (`.GIT`, `git~1`)."""
    folded = _UNSEEN.sub("", unicodedata.normalize("NFC", name)).casefold().rstrip(". ")
    return folded in _NEVER_WRITTEN or folded.startswith("git~")


def link_text(link: Link) -> str | None:
    """What a link says at home, or None where it may not stand there: always relative, never out of DEST."""
    if refusal(link.path) is not None or refusal(link.to) is not None:
        return None
    return posixpath.relpath(link.to, posixpath.dirname(link.path) or ".")


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
