"""Outputs come home: a manifest, of it what changed as one tar stream, each file checked before it stands at home."""

from __future__ import annotations

import hashlib
import tarfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpuctl.core.errors import HostError, HostRefused, HostUnreachable
from gpuctl.core.host_state import Training
from gpuctl.core.outputs import (
    GROWING,
    MARK,
    RUNS_ON,
    Left,
    Pulled,
    RemoteFile,
    RunMark,
    Wish,
    is_unchanged,
    is_whole,
    link_text,
    printable,
)
from gpuctl.remote.answers import Answers
from gpuctl.remote.destination import Destination, PartFile, PathConflict
from gpuctl.remote.host import Host
from gpuctl.remote.manifest import Manifest, ask_manifest
from gpuctl.remote.session import CHUNK, HostSilent
from gpuctl.remote.tarstream import BoundedReader, Content, NoTarStream, members

_AS_THE_JOB_SAYS = Wish()
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
class Transfer:
    """What a pull did. Names are the host's own: show them through `core.outputs.printable`.

    `files` moved, in order; `unchanged` were home already; `left` stay on the host, `skipped` (with why) do too but
    hold nothing; `missing` are the job's paths that match nothing; `incomplete` were still being written. `known` is
    what the next pull wants to be told. `over`: training had ended before the manifest was made.
    """

    files: tuple[str, ...]
    unchanged: int
    skipped: tuple[tuple[str, str], ...]
    left: tuple[Left, ...]
    missing: tuple[str, ...]
    incomplete: tuple[str, ...]
    bytes_moved: int
    known: Mapping[str, Pulled] = field(hash=False)
    training: Training = "unknown"
    over: bool = False
    only_log: bool = False
    receipt_refused: str | None = None

    @property
    def complete(self) -> bool:
        """True where all that the command wrote so far is home. A command that failed need not have got to a path."""
        return not (self.left or self.incomplete or (self.missing and self.training == "succeeded"))


def pull_outputs(
    host: Host,
    dest: Path,
    known: Mapping[str, Pulled],
    *,
    mark: RunMark | None = None,
    claimed: Collection[str] = (),
    reserved: Collection[str] = (),
    wish: Wish = _AS_THE_JOB_SAYS,
    on_claim: Callable[[Collection[str]], None] | None = None,
    is_home: Callable[[Transfer], bool] = lambda result: result.complete,
    on_progress: Callable[[Progress], None] | None = None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    back_within_s: float = 60.0,
) -> Transfer:
    """Brings home what changed since `known`, into `dest` (made where missing).

    Only what earlier pulls of the run brought there (`claimed`) is ever replaced; nothing is written into folders at
    its top that are another host's (`reserved`); `on_claim` hears what is about to be brought besides. Files that are
    being written are looked at again for 10 s, a connection that breaks is made again, if it can be in `back_within_s`.
    Where `is_home` says that nothing is left behind, and the disk has all of it, the host gets a receipt, and may end
    itself. Raises HostError and its kind where the host fails, GpuctlError where DEST cannot be written; what is
    home by then is whole.
    """
    with Destination(dest, mark) as home:
        ours = {*claimed, *(path for path, pulled in known.items() if pulled.sha256)}
        pull = _Pull(
            host, home, dict(known), ours, set(ours), reserved, wish, on_claim, on_progress, Manifest(host.name)
        )
        over_cuts = _OverCuts(host, pull, pause, back_within_s)
        over_cuts(pull.round)
        give_up = clock() + _PATIENCE_S
        while pull.unsettled() and clock() < give_up:
            pause(_PAUSE_S)
            over_cuts(pull.round)
        result = pull.result()
        if not is_home(result):
            return result
        home.sync((*pull.manifest.files, *pull.manifest.links, MARK))
    try:
        over_cuts(pull.give_receipt)
    except HostRefused as error:
        return replace(result, receipt_refused=error.message)
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
            except HostSilent:
                raise
            except HostUnreachable:
                home = len(self._pull.moved)
                self._cuts = self._cuts + 1 if home == self._home else 1
                self._home = home
                if self._cuts > _CUTS_IN_A_ROW:
                    raise
                self._pause(_PAUSE_S)
                self._host.wait_until_reachable(time.monotonic() + self._back_within_s)


@dataclass(eq=False)
class _Pull:
    """One pull's rounds: a manifest, then a stream of what it says has changed."""

    host: Host
    home: Destination
    known: dict[str, Pulled]
    ours: set[str]
    """What this run's pulls have brought, which may be replaced."""
    claimed: set[str]
    reserved: Collection[str]
    wish: Wish
    on_claim: Callable[[Collection[str]], None] | None
    on_progress: Callable[[Progress], None] | None
    manifest: Manifest
    moved: dict[str, None] = field(default_factory=dict)
    unchanged: dict[str, None] = field(default_factory=dict)
    incomplete: dict[str, None] = field(default_factory=dict)
    in_the_way: dict[str, str] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    bytes_moved: int = 0
    of_bytes: int = 0
    of_files: int = 0

    def round(self) -> None:
        self.manifest = ask_manifest(self.host, self.wish, tells_case=self.home.tells_case())
        self.incomplete = {}
        wanted: dict[str, RemoteFile] = {}
        self._keep_out_of_reserved()
        for path, file in self.manifest.files.items():
            if path in self.in_the_way:
                continue
            if is_unchanged(file, self.known.get(path), self.home.at_home(path)):
                self._found_unchanged(file)
            elif file.complete:
                wanted[path] = file
            else:
                self.incomplete[path] = None
        self._claim(wanted)
        if wanted:
            self.of_files += len(wanted)
            self.of_bytes += sum(file.size for file in wanted.values())
            self._fetch(wanted)
        self._make_links()

    def _keep_out_of_reserved(self) -> None:
        for path in (*self.manifest.files, *self.manifest.links) if self.reserved else ():
            if path.partition("/")[0] in self.reserved:
                self.in_the_way[path] = "the outputs of another host of the run are there"

    def _claim(self, wanted: dict[str, RemoteFile]) -> None:
        """Of what is to come, what may not take its place at home is told; the rest is this run's from now on."""
        new = [path for path in (*wanted, *self.manifest.links) if path not in self.claimed]
        free = [path for path in new if self._is_free(path)]
        for path in set(new).difference(free):
            wanted.pop(path, None)
        self.claimed.update(free)
        if free and self.on_claim is not None:
            self.on_claim(self.claimed)

    def _is_free(self, path: str) -> bool:
        if not self.home.own and path.startswith("."):
            self.in_the_way[path] = "a hidden name, and the destination was not empty before"
        elif self.home.stands(path):
            self.in_the_way[path] = "the destination has something there that this run did not download"
        return path not in self.in_the_way

    def _make_links(self) -> None:
        """Links to what is home. What they say is made here, from names that were checked."""
        files = self.manifest.files
        folders = {parent for path in files for parent in _parents(path)} if self.manifest.links else set()
        for path, link in list(self.manifest.links.items()):
            text = link_text(link)
            is_home = (link.to in files and self.home.at_home(link.to)) or (
                link.to in folders and self.home.is_folder(link.to)
            )
            if text is None or not is_home:
                why = f"a link to {printable(link.to)}, which was not downloaded"
                self.manifest.left[path] = Left(path, why, "link", files=0)
            elif path not in self.in_the_way:
                try:
                    made = self.home.link(path, text, replace=path in self.ours)
                except PathConflict as error:
                    self.in_the_way[path] = error.why
                else:
                    self.ours.add(path)
                    (self.moved if made else self.unchanged)[path] = None

    def awaited(self) -> list[str]:
        """What may still come: what changed or vanished, and not what the host has listed and twice not sent."""
        return [path for path in self.incomplete if len(self.refused.get(path, ())) < _TIMES_REFUSED]

    def unsettled(self) -> bool:
        """True where another look may find more: a file that may still come, a process that may write more."""
        return bool(self.awaited()) or any(one.kind == RUNS_ON for one in self.manifest.left.values())

    def result(self) -> Transfer:
        awaited = self.awaited()
        files, left = self.manifest.files, [one for one in self.manifest.left.values() if one.files != 0]
        for path, why in self.in_the_way.items():
            if path in files or path in self.manifest.links:
                left.append(Left(path, why, "home", files=1, bytes=files[path].size if path in files else 0))
        for path in self.incomplete:
            if path not in awaited and path in files:
                left.append(Left(path, self.refused[path][-1], "unreadable", files=1, bytes=files[path].size))
        return Transfer(
            files=tuple(self.moved),
            unchanged=len(self.unchanged),
            skipped=tuple((one.path, one.why) for one in self.manifest.left.values() if one.files == 0),
            left=tuple(left),
            missing=tuple(self.manifest.missing),
            incomplete=tuple(awaited),
            bytes_moved=self.bytes_moved,
            known={path: pulled for path, pulled in self.known.items() if path in files},
            training=self.manifest.training,
            over=self.manifest.over,
            only_log=self.manifest.only_log,
        )

    def give_receipt(self) -> None:
        """Have the host know that nothing is left behind."""
        told = self.manifest
        receipt = {"files": len(told.files), "bytes": told.bytes, "at": time.time(), "over": told.over}
        self.host.call("receipt", receipt, timeout_s=60)

    def _found_unchanged(self, file: RemoteFile) -> None:
        known = self.known.get(file.path)
        if known is None or (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
            self.known[file.path] = Pulled(file.size, file.mtime_ns, file.inode, "")
        if file.path not in self.moved:
            self.unchanged[file.path] = None

    def _fetch(self, wanted: dict[str, RemoteFile]) -> None:
        left = dict(wanted)
        with (
            self.host.stream("send", {"paths": list(wanted)}) as streams,
            Answers(streams, self.host.name, wanted) as answers,
        ):
            source = BoundedReader(
                streams.stdout,
                self.host.name,
                files=len(wanted),
                size=sum(_at_most(file) for file in wanted.values()),
            )
            try:
                whole = self._receive(source, answers, left)
            except NoTarStream as error:
                if source.ended:  # then the host may say itself what went wrong
                    answers.finish()
                raise HostError(f"{self.host.name} sent something that is not a tar stream", "try again") from error
            if whole:
                self._finish(answers, left)
        # Changed, vanished or refused since the manifest: the next one tells which.
        self.incomplete.update(dict.fromkeys(left))

    def _finish(self, answers: Answers, left: Collection[str]) -> None:
        answers.finish()
        for path in left:
            if path in answers.refused:
                self.refused.setdefault(path, []).append(answers.refused[path])

    def _receive(self, source: BoundedReader, answers: Answers, left: dict[str, RemoteFile]) -> bool:
        """What has come of the stream; False where a file in it has become so large that the rest is not waited for.

        The next manifest tells its new size.
        """
        for member, content in members(source):
            file = left.get(member.name)
            if file is not None and not source.may_hold(member):
                return False
            if file is not None and content is not None and _fits(member, file):
                self._take(member, content, file, answers=answers, left=left)
        return True

    def _take(
        self,
        member: tarfile.TarInfo,
        content: Content,
        file: RemoteFile,
        *,
        answers: Answers,
        left: dict[str, RemoteFile],
    ) -> None:
        with self.home.aside() as aside:
            digest = self._copy(content, aside)
            sent = answers.sent(file.path)
            if not is_whole(file, sent, size=aside.size, sha256=digest, mtime_s=float(member.mtime)):
                return
            try:
                self.home.put(aside, file.path, mtime_ns=file.mtime_ns, replace=file.path in self.ours)
            except PathConflict as error:
                self.in_the_way[file.path] = error.why
            else:
                self.known[file.path] = Pulled(aside.size, file.mtime_ns, file.inode, digest)
                self.ours.add(file.path)
                self.moved[file.path] = None
                self.unchanged.pop(file.path, None)
            del left[file.path]
        self._tell()

    def _copy(self, content: Content, aside: PartFile) -> str:
        digest = hashlib.sha256()
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            aside.write(chunk)
            self.bytes_moved += len(chunk)
            self._tell()
        return digest.hexdigest()

    def _tell(self) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(len(self.moved), self.of_files, self.bytes_moved, self.of_bytes))


def _parents(path: str) -> Iterator[str]:
    """The folders that a path lies in."""
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _at_most(file: RemoteFile) -> int:
    return file.size + (_MOST_GROWN if file.path in GROWING else 0)


def _fits(member: tarfile.TarInfo, file: RemoteFile) -> bool:
    if member.issparse():
        return False
    return file.size <= member.size <= _at_most(file)
