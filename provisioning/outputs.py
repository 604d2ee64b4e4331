"""The outputs of a run: which files there are, which of them are whole, and what the command wrote besides."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any

from provisioning.elsewhere import written_elsewhere
from provisioning.listing import LOG, METRICS, Entry, Left, Link, Listing, OutputFile, Wish, output_file, read_wish
from provisioning.paths import Paths
from provisioning.processes import HeldFile, Process, held_files, still_at_work, words_of
from provisioning.protocol import ALIVE_S, Channel
from provisioning.state import RunState, describe, read_state

QUIET_NS = 2_000_000_000
HELD_QUIET_NS = 30_000_000_000


class StableCheck:
    """Which files are whole: those that nothing has touched for a while, and once training has ended all that no
    process has open to write.

    While it trains: two seconds; thirty for a file that is open to write in place, since a slow writer pauses. What is
    open to append to (a log) is good at any length.

    The clock and what is open are looked at once, before any file is: whatever happens to a file after that makes it
    young, and whoever began to write it before that and has not ended is seen to have it open.
    """

    def __init__(self, run: RunState, held: Collection[HeldFile]) -> None:
        self._over = run.over
        self._now_ns = time.time_ns()
        self._held = frozenset(one.identity for one in held if run.over or not one.appends)

    def __call__(self, file: OutputFile) -> bool:
        """True where the file is whole as far as can be told from outside."""
        held = (file.device, file.inode) in self._held
        if self._over:
            return not held
        return self._now_ns - file.changed_ns >= (HELD_QUIET_NS if held else QUIET_NS)


def manifest_verb(paths: Paths, channel: Channel) -> int:
    """List what comes home, and tell what does not. Nothing is written: a full disk is no reason to lose a model."""
    wish = read_wish(paths, dict(channel.read_request().fields))
    with channel.alive(ALIVE_S):
        told, state = _tell_all(paths, channel, wish)
    channel.emit("manifest", files=told.files, bytes=told.bytes, state=state)
    return 0


def _tell_all(paths: Paths, channel: Channel, wish: Wish) -> tuple[_Told, dict[str, Any]]:
    """Tells each entry. Answers how much that was, and the state before it."""
    # Both before the listing: what training writes after this look may be missing from it.
    begun = paths.last_begun()
    run, state = read_state(begun), describe(begun)
    held = held_files()
    told = _Told(channel, StableCheck(run, held))
    if run.over:
        for process in still_at_work(begun, held):
            told(still_runs(process))
    for own in _own_files(paths):
        told(own)
    listing = Listing(paths, wish)
    for entry in listing:
        told(entry)
    if run.over:
        for path in listing.missing():
            channel.queue("missing", path=path)
        for left in written_elsewhere(paths, wish.checkpoints, listing.outside):
            told(left)
    return told, state


def still_runs(process: Process) -> Left:
    """What outlives the command may still write: nobody knows what, nor when."""
    return Left(f"process {process.pid}", "running", f"{words_of(process)}: it runs on, and may write more", files=None)


def left_nothing(paths: Paths) -> bool:
    """True where the command wrote no file that anybody could miss, in the workspace or elsewhere, and nothing of it
    goes on. Raises OSError."""
    if still_at_work(paths, held_files()):
        return False
    wish = read_wish(paths, {})
    listing = Listing(paths, wish)
    if any(not isinstance(entry, Left) or entry.files != 0 for entry in listing):
        return False
    return next(written_elsewhere(paths, wish.checkpoints, listing.outside), None) is None


class _Told:
    """Tells entries as events, and keeps the sum of the files."""

    def __init__(self, channel: Channel, settled: StableCheck) -> None:
        self._channel = channel
        self._settled = settled
        self.files = self.bytes = 0

    def __call__(self, entry: Entry) -> None:
        if isinstance(entry, Link):
            self._channel.queue("link", path=entry.path, to=entry.to)
            return
        if not isinstance(entry, OutputFile):
            values = {"kind": entry.kind, "why": entry.why, "files": entry.files, "bytes": entry.bytes}
            self._channel.queue("skipped", path=entry.path, **values)
            return
        self.files, self.bytes = self.files + 1, self.bytes + entry.size
        whole = entry.path in (LOG, METRICS) or self._settled(entry)
        values = {"size": entry.size, "mtime_ns": entry.mtime_ns, "inode": entry.inode, "complete": whole}
        self._channel.queue("file", path=entry.path, **values)


def _own_files(paths: Paths) -> Iterator[OutputFile]:
    """The log and the metrics, by the names that they have among the outputs."""
    for name, path in ((LOG, paths.log), (METRICS, paths.metrics)):
        try:
            yield output_file(name, path.stat())
        except OSError:
            continue
