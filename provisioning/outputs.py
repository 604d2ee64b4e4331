"""The outputs of a run: which files there are, which of them are whole, and what the command wrote besides."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from provisioning.elsewhere import written_elsewhere
from provisioning.listing import LOG, METRICS, Entry, Left, Link, Listing, OutputFile, Wish, output_file, read_wish
from provisioning.paths import Paths, read_json
from provisioning.protocol import ALIVE_S, Channel
from provisioning.state import RunState, describe, read_state

QUIET_NS = 2_000_000_000
HELD_QUIET_NS = 30_000_000_000


class StableCheck:
    """Which files are whole: all once training has ended, else those that nothing has touched for a while.

    Two seconds; thirty for a file that training still has open to write in place, since a slow writer pauses. What is
    open to append to (a log) is good at any length.

    The clock and what is open are looked at once, before any file is: whatever happens to a file after that makes it
    young, and whoever began to write it before that and has not ended is seen to have it open.
    """

    def __init__(self, run: RunState, paths: Paths) -> None:
        self._over = run.over
        self._now_ns = time.time_ns()
        group = (read_json(paths.state) or {}).get("pgid")
        self._held = frozenset() if self._over or group is None else _held_open(group)

    def __call__(self, file: OutputFile) -> bool:
        """True where the file is whole as far as can be told from outside."""
        if self._over:
            return True
        quiet_ns = self._now_ns - file.changed_ns
        return quiet_ns >= (HELD_QUIET_NS if (file.device, file.inode) in self._held else QUIET_NS)


def _held_open(group: int, proc: Path = Path("/proc")) -> frozenset[tuple[int, int]]:
    """(device, inode) of what the group's processes have open to write in place; nothing where there is no /proc."""
    held = set()
    try:
        pids = [name for name in os.listdir(proc) if name.isdigit() and _group_of(proc / name) == group]
    except OSError:
        return frozenset()
    for pid in pids:
        try:
            for descriptor in os.listdir(proc / pid / "fd"):
                flags = _open_flags(proc / pid / "fdinfo" / descriptor)
                if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND:
                    status = os.stat(proc / pid / "fd" / descriptor)
                    held.add((status.st_dev, status.st_ino))
        except OSError:
            continue  # it ended while we looked
    return frozenset(held)


def _group_of(process: Path) -> Optional[int]:
    try:
        # After the name in parentheses, which may hold anything: state, parent, group.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[2])
    except (OSError, ValueError, IndexError):
        return None


def _open_flags(fdinfo: Path) -> int:
    for line in fdinfo.read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    return os.O_RDONLY


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
    told = _Told(channel, StableCheck(run, begun))
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


def left_nothing(paths: Paths) -> bool:
    """True where the command wrote no file that anybody could miss, in the workspace or elsewhere. Raises OSError."""
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
