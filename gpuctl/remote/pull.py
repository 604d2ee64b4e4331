"""Outputs come home: a manifest, of it what changed as one tar stream, each file checked before it stands at home."""

from __future__ import annotations

import hashlib
import queue
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from gpuctl.core.errors import GpuctlError, HostError, HostUnreachable
from gpuctl.core.outputs import (
    GROWING,
    Pulled,
    RemoteFile,
    Sent,
    collisions,
    is_unchanged,
    is_whole,
    parse_file,
    parse_sent,
    parse_skipped,
    printable,
    refusal,
)
from gpuctl.remote.destination import Aside, Destination, InTheWay
from gpuctl.remote.host import Host, Streams
from gpuctl.remote.protocol import Event
from gpuctl.remote.session import CHUNK
from gpuctl.remote.tarstream import Metered, members

MOST_FILES = 500_000
_MOST_NAME_CHARACTERS = 64 * 1024 * 1024
_MOST_GROWN = 1024**3
"""Bytes that a log may have grown by between the manifest and its sending."""
_PATIENCE_S = 10.0
_PAUSE_S = 1.0
_TIMES_REFUSED = 2
_CUTS_IN_A_ROW = 5
"""How often a pull goes on over a new connection though the last one brought nothing whole home."""


@dataclass(frozen=True)
class Progress:
    """How far a pull is, over what it has found to move so far."""

    files: int
    of_files: int
    bytes: int
    of_bytes: int


@dataclass(frozen=True)
class PullResult:
    """What a pull did. Names are the host's own: show them through `core.outputs.printable`.

    `files` moved, in order; `unchanged` were home already; `skipped` do not come, with why; `incomplete` were still
    being written. `known` is what the next pull wants to be told. `complete`: everything that can come home is home.
    """

    files: tuple[str, ...]
    unchanged: int
    skipped: tuple[tuple[str, str], ...]
    incomplete: tuple[str, ...]
    bytes_moved: int
    known: Mapping[str, Pulled] = field(hash=False)
    complete: bool


def pull_outputs(
    host: Host,
    dest: Path,
    known: Mapping[str, Pulled],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    back_within_s: float = 60.0,
) -> PullResult:
    """Brings home what changed since `known`, into `dest` (made where missing).

    Files that are being written are looked at again for 10 s, a connection that breaks is made again, if it can be in
    `back_within_s`. Where nothing is left behind the host gets a receipt.
    Raises HostError and its kind where the host fails, GpuctlError where DEST cannot be written; what is home by then
    is whole.
    """
    with Destination(dest) as home:
        pull = _Pull(host, home, dict(known), on_progress)
        over_cuts = _OverCuts(host, pull, pause, back_within_s)
        over_cuts(pull.round)
        give_up = clock() + _PATIENCE_S
        while pull.awaited() and clock() < give_up:
            pause(_PAUSE_S)
            over_cuts(pull.round)
    result = pull.result()
    if result.complete:
        size = sum(file.size for file in pull.manifest.values())
        receipt = {"files": len(pull.manifest), "bytes": size, "at": time.time()}
        over_cuts(lambda: host.call("receipt", receipt, timeout_s=60))
    return result


class _OverCuts:
    """Does things again over a new connection where one broke; what is whole at home by then is not fetched again."""

    def __init__(self, host: Host, pull: _Pull, pause: Callable[[float], None], back_within_s: float) -> None:
        self._host, self._pull, self._pause, self._back_within_s = host, pull, pause, back_within_s
        self._cuts = self._home = 0

    def __call__(self, work: Callable[[], object]) -> None:
        """Raises HostUnreachable after so many cuts in a row between which nothing more came home."""
        while True:
            try:
                work()
                return
            except HostUnreachable:
                home = self._pull.moved
                self._cuts = self._cuts + 1 if home == self._home else 1
                self._home = home
                if self._cuts > _CUTS_IN_A_ROW:
                    raise
                self._pause(_PAUSE_S)
                self._host.wait_until_reachable(time.monotonic() + self._back_within_s)


class _Pull:
    """One pull's rounds: a manifest, then a stream of what it says has changed."""

    def __init__(
        self,
        host: Host,
        home: Destination,
        known: dict[str, Pulled],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._host = host
        self._home = home
        self._known = known
        self._on_progress = on_progress
        self._moved: dict[str, None] = {}
        self._unchanged: dict[str, None] = {}
        self._skipped: dict[str, str] = {}
        self._in_the_way: dict[str, InTheWay] = {}
        self._refused: dict[str, list[str]] = {}
        self._bytes = self._of_bytes = 0
        self._of_files = 0
        self.manifest: dict[str, RemoteFile] = {}
        self.incomplete: dict[str, None] = {}

    def round(self) -> None:
        self.manifest, self._skipped = self._ask_manifest()
        self.incomplete = {}
        wanted: dict[str, RemoteFile] = {}
        for path, file in self.manifest.items():
            if path in self._in_the_way:
                continue
            if is_unchanged(file, self._known.get(path), self._home.at_home(path)):
                self._found_unchanged(file)
            elif file.complete:
                wanted[path] = file
            else:
                self.incomplete[path] = None
        if wanted:
            self._of_files += len(wanted)
            self._of_bytes += sum(file.size for file in wanted.values())
            self._fetch(wanted)

    @property
    def moved(self) -> int:
        """How many files have come home."""
        return len(self._moved)

    def awaited(self) -> list[str]:
        """What may still come: what changed or vanished, and not what the host has listed and twice not sent."""
        return [path for path in self.incomplete if len(self._refused.get(path, ())) < _TIMES_REFUSED]

    def result(self) -> PullResult:
        awaited = self.awaited()
        refused = [(path, self._refused[path][-1]) for path in self.incomplete if path not in set(awaited)]
        in_the_way = [(path, error.why) for path, error in self._in_the_way.items()]
        return PullResult(
            files=tuple(self._moved),
            unchanged=len(self._unchanged),
            skipped=(*self._skipped.items(), *in_the_way, *refused),
            incomplete=tuple(awaited),
            bytes_moved=self._bytes,
            known={path: pulled for path, pulled in self._known.items() if path in self.manifest},
            complete=not awaited and not any(error.clearable for error in self._in_the_way.values()),
        )

    def _found_unchanged(self, file: RemoteFile) -> None:
        known = self._known.get(file.path)
        if known is None or (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
            self._known[file.path] = Pulled(file.size, file.mtime_ns, file.inode, "")
        if file.path not in self._moved:
            self._unchanged[file.path] = None

    def _ask_manifest(self) -> tuple[dict[str, RemoteFile], dict[str, str]]:
        """The files that may come, and those that do not with why."""
        reading = _Manifest(self._host.name)
        last = self._host.call("manifest", {}, on_event=reading.take)
        if last["event"] != "manifest":
            raise HostError(f"{self._host.name} did not list its outputs to the end", "try again")
        files, skipped = reading.files, reading.skipped
        if not self._home.tells_case():
            for path, other in collisions(files).items():
                skipped[path] = f"this disk takes it for {printable(other)}"
                del files[path]
        return files, skipped

    def _fetch(self, wanted: dict[str, RemoteFile]) -> None:
        left = dict(wanted)
        with (
            self._host.stream("send", {"paths": list(wanted)}) as streams,
            _Answers(streams, self._host.name) as answers,
        ):
            source = Metered(streams.stdout, self._host.name)
            try:
                self._receive(source, answers, left)
            except (tarfile.TarError, RecursionError) as error:
                if source.ended:  # then the host may say itself what went wrong
                    answers.finish()
                raise HostError(f"{self._host.name} sent something that is no tar stream", "try again") from error
            answers.finish()
            for path in left:
                if path in answers.refused:
                    self._refused.setdefault(path, []).append(answers.refused[path])
        # Changed, vanished or refused since the manifest: the next one tells which.
        self.incomplete.update(dict.fromkeys(left))

    def _receive(self, source: Metered, answers: _Answers, left: dict[str, RemoteFile]) -> None:
        for member, content in members(source):
            file = left.get(member.name)
            if file is not None and content is not None and _fits(member, file):
                self._take(member, content, file, answers=answers, left=left)

    def _take(
        self,
        member: tarfile.TarInfo,
        content: IO[bytes],
        file: RemoteFile,
        *,
        answers: _Answers,
        left: dict[str, RemoteFile],
    ) -> None:
        with self._home.aside() as aside:
            digest = self._copy(content, aside)
            sent = answers.sent(file.path)
            if not is_whole(file, sent, size=aside.size, sha256=digest, mtime_s=float(member.mtime)):
                return
            try:
                self._home.put(aside, file.path, mtime_ns=file.mtime_ns)
            except InTheWay as error:
                self._in_the_way[file.path] = error
            else:
                self._known[file.path] = Pulled(aside.size, file.mtime_ns, file.inode, digest)
                self._moved[file.path] = None
                self._unchanged.pop(file.path, None)
            del left[file.path]

    def _copy(self, content: IO[bytes], aside: Aside) -> str:
        digest = hashlib.sha256()
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            aside.write(chunk)
            self._bytes += len(chunk)
            self._tell()
        self._tell()
        return digest.hexdigest()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(len(self._moved), self._of_files, self._bytes, self._of_bytes))


class _Manifest:
    """A manifest as its events come, bounded: a host cannot fill the laptop's memory with names."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._characters = 0
        self.files: dict[str, RemoteFile] = {}
        self.skipped: dict[str, str] = {}

    def take(self, event: Event) -> None:
        file = parse_file(event) if event["event"] == "file" else None
        skipped = parse_skipped(event) if event["event"] == "skipped" else None
        if file is not None:
            self._count(file.path)
            why = refusal(file.path)
            if why is None:
                self.files[file.path] = file
            else:
                self.skipped[file.path] = why
        elif skipped is not None:
            self._count(skipped.path)
            self.skipped[skipped.path] = skipped.why

    def _count(self, path: str) -> None:
        self._characters += len(path)
        if len(self.files) + len(self.skipped) >= MOST_FILES or self._characters > _MOST_NAME_CHARACTERS:
            raise HostError(
                f"{self._name} lists more than {MOST_FILES} outputs", "name fewer in the job's `[outputs] paths`"
            )


def _fits(member: tarfile.TarInfo, file: RemoteFile) -> bool:
    if member.issparse():
        return False
    grown = member.size - file.size
    return 0 <= grown <= _MOST_GROWN if file.path in GROWING else grown == 0


class _Answers:
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

    def __enter__(self) -> _Answers:
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
            if skipped is not None and len(self.refused) < MOST_FILES:
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
