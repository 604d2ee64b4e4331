"""Where things are on a host, and the one way in which small files are written there: aside, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

_RESERVED = 4096
MOST_ATTEMPTS = 1_000_000
_NUMBER = re.compile(r"[1-9][0-9]{0,6}\Z", re.ASCII)
_BEGUN = ("state.json", "exit.json")
"""What there is of an attempt once it has been started."""
_NEXT_TO_NOTHING = 64 * 1024


@dataclass(frozen=True)
class Paths:
    """Everything is below `root`, `~/gpuctl`, but for environments that an image brings.

    `attempt` is the number of the run's current attempt on this host, from 1: how each began and ended is kept.
    """

    root: Path
    environments: Path
    attempt: int = 1

    @property
    def spec(self) -> Path:
        """The `provision` request."""
        return self.root / "spec.json"

    @property
    def provisioned(self) -> Path:
        """What `provision` ended with; there once it has ended well."""
        return self.root / "provisioned.json"

    @property
    def code(self) -> Path:
        """What of the workspace came from the laptop: `{path: [size, mtime_ns, sha256]}`."""
        return self.root / "code.json"

    @property
    def work(self) -> Path:
        """The workspace, the training command's working folder."""
        return self.root / "work"

    @property
    def incoming(self) -> Path:
        """Where a workspace is unpacked before it takes its place."""
        return self.root / "incoming"

    @property
    def venv(self) -> Path:
        """The run's virtualenv."""
        return self.root / "venv"

    @property
    def pip(self) -> Path:
        """A virtualenv with `pip`, where the host's Python comes without one."""
        return self.root / "pip"

    @property
    def run(self) -> Path:
        """What is of all attempts, which the boot's loop reads too; and a folder for each attempt."""
        return self.root / "run"

    @property
    def of_attempt(self) -> Path:
        """What is of the current attempt. An early payload had one attempt, whose files lay in `run` itself."""
        folder = self.run / str(self.attempt)
        early = self.attempt == 1 and not folder.exists()
        return self.run if early and any((self.run / name).exists() for name in _BEGUN) else folder

    def has_begun(self) -> bool:
        """Whether the current attempt has been started here."""
        return any((self.of_attempt / name).exists() for name in _BEGUN)

    def last_begun(self) -> Paths:
        """The paths of the newest attempt so far that has been started; of this one where none has."""
        return next((paths for paths in reversed(self._attempts()) if paths.has_begun()), self)

    @property
    def log(self) -> Path:
        """Every byte that the command printed."""
        return self.run / "log"

    @property
    def metrics(self) -> Path:
        """What the command wrote to GPUCTL_METRICS."""
        return self.run / "metrics.jsonl"

    @property
    def state(self) -> Path:
        """There from the moment that the command runs."""
        return self.of_attempt / "state.json"

    @property
    def exit(self) -> Path:
        """There from the moment that the command has ended."""
        return self.of_attempt / "exit.json"

    @property
    def stop(self) -> Path:
        """What the last `stop` asked."""
        return self.of_attempt / "stop.json"

    @property
    def receipt(self) -> Path:
        """The last pull that left nothing behind."""
        return self.of_attempt / "receipt.json"

    @property
    def power_off_at(self) -> Path:
        """When the host powers itself off, if that is sooner than its deadline: seconds since the epoch, as digits.

        The boot's loop reads it and the two below (gpuctl's core/boot.py), on every boot, supervisor or not.
        """
        return self.run / "power-off-at"

    @property
    def power_off_if_alone(self) -> Path:
        """After how many seconds without a supervisor the host powers itself off, as digits."""
        return self.run / "power-off-if-alone"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.run / "lock"

    def shared(self) -> tuple[Path, ...]:
        """The folders in which gpuctl's own files lie and a command may have put some of its own."""
        return (self.root, self.run, *(paths.of_attempt for paths in self._attempts()))

    def owned(self) -> frozenset[Path]:
        """Every path that gpuctl itself writes to; whatever else appears beside the workspace, the command wrote."""
        names = [name for name, value in vars(Paths).items() if isinstance(value, property)]
        own = [getattr(paths, name) for paths in self._attempts() for name in names]
        return frozenset((*own, self.environments, self.root / "host.pyz", self.root / "errors"))

    def _attempts(self) -> list[Paths]:
        """The paths of each attempt so far, the current one's included. Any other number is a command's."""
        numbers = {number for number in _numbered(self.run) if number < self.attempt}
        return [replace(self, attempt=number) for number in sorted({*numbers, self.attempt})]


def here() -> Paths:
    """The paths of the user that asks. Makes `~/gpuctl`, for this user's eyes alone."""
    root = Path.home() / "gpuctl"
    root.mkdir(mode=0o700, exist_ok=True)
    brought = os.environ.get("GPUCTL_ENVIRONMENTS")
    paths = Paths(root=root, environments=Path(brought) if brought else root / "envs")
    spec = read_json(paths.spec)
    if spec is None:  # damaged, or nothing was provisioned
        return replace(paths, attempt=max(_numbered(paths.run), default=1))
    return replace(paths, attempt=attempt_of(spec))


def _numbered(folder: Path) -> list[int]:
    """The folders in a folder that are called by a number, links apart."""
    try:
        with os.scandir(folder) as entries:
            return [int(one.name) for one in entries if _NUMBER.match(one.name) and one.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def attempt_of(spec: Mapping[str, Any]) -> int:
    """Which attempt of the run a `provision` request is for: 1 where it does not say."""
    number = spec.get("attempt")
    return number if type(number) is int and 1 <= number <= MOST_ATTEMPTS else 1


def forget_last_run(paths: Paths) -> None:
    """Before a command starts: what this very attempt has left. The log and the metrics go on; they only ever grow."""
    for leftover in (paths.exit, paths.state, paths.stop, paths.receipt):
        leftover.unlink(missing_ok=True)


def note_traceback(paths: Optional[Paths]) -> None:
    """Keep the traceback of what nobody foresaw; where even that cannot be written, what follows is still told."""
    if paths is None:
        return
    try:
        with open(paths.root / "errors", "a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
    except OSError:
        return


def write_json(path: Path, value: Any) -> None:
    """Write an object as a small file. Raises OSError."""
    write_small(path, json.dumps(value))


def write_small(path: Path, text: str) -> None:
    """Write a small file whole or not at all, and on the disk when this returns. Mode 600. Raises OSError.

    On a full disk it is written into the room that `reserve` has kept for it.
    """
    data = text.encode("ascii")
    try:
        _write_aside(path, data)
    except OSError as error:
        if not disk_full(error):
            raise
        _write_in_reserve(path, data, error)


def disk_full(error: BaseException) -> bool:
    """True for an error that says that nothing more can be written: a full disk, a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(paths: Paths) -> bool:
    """True where this user can write next to nothing more below `~/gpuctl`."""
    try:
        disk = os.statvfs(paths.root)
    except OSError:  # the command has removed it
        return False
    return disk.f_bavail * disk.f_frsize < _NEXT_TO_NOTHING or (disk.f_files > 0 and disk.f_favail == 0)


def reserve(paths: Paths) -> None:
    """Keep room for what has to be written even on a full disk. Raises OSError where there is none."""
    paths.of_attempt.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (paths.state, paths.exit, paths.stop, paths.receipt, paths.power_off_at):
        kept = _reserve_of(path)
        if not kept.exists():
            # Spaces, for zeros may become a hole; and as the end of a JSON text they mean nothing.
            _write_aside(kept, b" " * _RESERVED)


def _reserve_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.reserve")


def _write_aside(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_in_reserve(path: Path, data: bytes, full: OSError) -> None:
    """Over bytes that are on the disk already: the room kept for this file, or the file itself once it has used that.

    Raises `full` where neither is there, or is too small.
    """
    kept = _reserve_of(path)
    place = kept if kept.exists() else path
    try:
        descriptor = os.open(place, os.O_WRONLY)
    except FileNotFoundError:
        raise full from None
    try:
        size = os.fstat(descriptor).st_size
        if size < len(data):
            raise full
        os.pwrite(descriptor, data.ljust(size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if place == kept:
        kept.replace(path)


def read_json(path: Path) -> Optional[dict[str, Any]]:
    """The object in a file, or None where there is no such file or nothing readable in it."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
