"""One folder a run: what was asked of AWS, the keys, what is known of the training, what is home."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gpuctl import __version__
from gpuctl.core.codec import Unreadable, dumps, from_plain, loads, parse, to_plain
from gpuctl.core.errors import GpuctlError, UsageError
from gpuctl.core.run_names import is_run_name
from gpuctl.core.text import safe, shorten
from gpuctl.state.records import (
    SCHEMA,
    Progress,
    RunHeader,
    RunRecord,
    Seen,
    checked,
    header_of,
    migrated,
    migrated_progress,
)

_MOST_TOLD = 300
_LOOKED_AT_S = 1.0
"""Longer than whoever only looks whether a run is being launched holds its lock."""


class HostFolder:
    """What is kept of one host: copies of its log and its metrics, and what it said last of its training."""

    FILES = ("log", "metrics.jsonl", "seen.json")

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """The part of the host's log that is here already."""
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        """The part of the host's metrics that is here already."""
        return self.path / "metrics.jsonl"

    def seen(self) -> Seen | None:
        """What the host said last."""
        try:
            return loads((self.path / "seen.json").read_bytes(), Seen)
        except (OSError, Unreadable):
            return None

    def note_seen(self, seen: Seen) -> None:
        """Write down what the host says now. Apart from `progress`: whoever only looks changes nothing of that."""
        _write_whole(self.path / "seen.json", dumps(seen))


class RunFolder:
    """The folder of one run. Every write is whole: aside, then renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def identity(self) -> Path:
        """The caller's private key for this run."""
        return self.path / "identity"

    @property
    def known_hosts(self) -> Path:
        """The run's host key, pinned before its host exists."""
        return self.path / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """What plain `ssh -F` reads."""
        return self.path / "ssh_config"

    def host(self, number: int) -> HostFolder:
        """What is kept of one of the run's hosts. An early version kept that of the only one beside the record."""
        early = number == 0 and any((self.path / name).exists() for name in HostFolder.FILES)
        return HostFolder(self.path if early else self.path / "hosts" / str(number))

    def exists(self) -> bool:
        """True where this laptop knows of the run."""
        return (self.path / "run.json").exists()

    def has_key(self) -> bool:
        """True where this laptop can reach the run's hosts."""
        return self.identity.exists() and self.known_hosts.exists()

    def header(self) -> RunHeader:
        """Where the run is, as every version of gpuctl wrote it. Raises GpuctlError where it cannot be read."""
        with self._read_errors():
            return header_of(self._stored())

    def read(self) -> RunRecord:
        """The record. Raises GpuctlError where it cannot be read, or a newer gpuctl wrote it."""
        with self._read_errors():
            data = self._stored()
            header = header_of(data)
            if header.schema <= SCHEMA:
                return checked(from_plain(migrated(data), RunRecord))
        raise GpuctlError(
            f"run {self.name} was left alone: a newer gpuctl launched it ({header.gpuctl}; this is {__version__})",
            f"update gpuctl; `gpuctl down {self.name}` works without updating",
        )

    def known(self) -> RunRecord | None:
        """The record as far as it can be read; None where there is none, it is damaged, or a newer gpuctl's."""
        try:
            return self.read()
        except GpuctlError:
            return None

    def known_header(self) -> RunHeader | None:
        """The same of the header, which a newer gpuctl's record has too."""
        try:
            return self.header()
        except GpuctlError:
            return None

    def _stored(self) -> Any:
        return parse((self.path / "run.json").read_bytes())

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except GpuctlError:
            raise
        except Exception as error:  # a record of any shape: the one border
            why = shorten(safe(repr(error)), _MOST_TOLD)
            raise GpuctlError(
                f"this laptop's record of run {self.name} cannot be read ({self.path / 'run.json'}: {why})",
                "move that folder away; `gpuctl ls` and `gpuctl down` work without it",
            ) from error

    def write(self, record: RunRecord) -> None:
        """Write the record whole."""
        self.write_file("run.json", dumps({**to_plain(record.header), **to_plain(record)}, indent=1))

    def progress(self) -> Progress:
        """What has been seen of the run so far; nothing where that is damaged: what is up of it, the account tells."""
        return self._progress() or Progress(started=False)

    def may_have_started(self) -> bool:
        """False only where this laptop knows that training never started; what it has seen may be lost."""
        seen = self._progress()
        return seen is None or seen.started

    def _progress(self) -> Progress | None:
        try:
            return from_plain(migrated_progress(self._json("progress.json"), self._region), Progress)
        except Unreadable:
            return None

    def _region(self) -> str:
        """The region of the run, empty where the record is damaged."""
        header = self.known_header()
        return header.region if header else ""

    def note(self, **changes: Any) -> Progress:
        """Write down what has been seen now. Where what was seen before is lost, training may have started.

        What a newer gpuctl has written besides stays, and where this one cannot read it, all of it does.
        """
        seen = self._progress()
        progress = replace(seen or Progress(started=self.exists()), **changes)
        if seen is not None or not self._is_newer():
            besides = self._json("progress.json") if seen is not None else {}
            self.write_file("progress.json", dumps({**besides, **to_plain(progress)}))
        return progress

    def _is_newer(self) -> bool:
        header = self.known_header()
        return header is not None and header.schema > SCHEMA

    def pulled(self) -> dict[str, Any]:
        """What `pull` has brought home, by name."""
        return self._json("pulled.json")

    def pulled_lock(self) -> FileLock:
        """Held by whoever reads it to change it: two pulls of a run, into two folders, may go on at once."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(self.path / ".pulled.lock")

    def write_pulled(self, pulled: Mapping[str, Any]) -> None:
        """Remember what is home."""
        self.write_file("pulled.json", dumps(pulled))

    def write_file(self, name: str, text: str) -> Path:
        """Write one file whole, readable by its owner alone."""
        return _write_whole(self.path / name, text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against another gpuctl on this laptop. Raises UsageError where one is at it."""
        lock = FileLock(self.path.parent / f".{self.name}.lock")
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with lock.acquire(timeout=_LOOKED_AT_S):
                yield
        except Timeout:
            raise UsageError(f"another gpuctl is already launching {self.name}", "choose another --name") from None

    def being_launched(self) -> bool:
        """True while a launch of this run is at work on this laptop."""
        if not self.exists():
            return False
        try:
            with FileLock(self.path.parent / f".{self.name}.lock").acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def forget_keys(self) -> None:
        """Remove what reaches hosts that are gone; what was seen of the run stays."""
        for name in ("identity", "identity.pub", "host_key", "host_key.pub", "known_hosts", "ssh_config"):
            (self.path / name).unlink(missing_ok=True)
        if record := self.known():  # else damaged, and so there is nothing in it to forget
            self.write(replace(record, template_request=None, fleet_request=None))

    def remove(self) -> None:
        """Remove the folder: the run was undone before it was one."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            data = parse((self.path / name).read_bytes())
        except (OSError, Unreadable):
            return {}
        return data if isinstance(data, dict) else {}


def _write_whole(path: Path, text: str) -> Path:
    """Aside, then renamed; readable by its owner alone. What is not ASCII in it is part of a file's name."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.fsencode(text))
        file.flush()
        os.fsync(file.fileno())
    Path(aside).replace(path)
    return path


def run_folder(runs: Path, name: str) -> RunFolder:
    """The folder of the run called `name`, there or not; what is no run's name (a tag may hold anything) has none."""
    return RunFolder(runs / (name if is_run_name(name) else "-"))


def all_run_folders(runs: Path) -> list[RunFolder]:
    """The folders of the runs that this laptop knows of, by name."""
    if not runs.is_dir():
        return []
    folders = [RunFolder(p) for p in sorted(runs.iterdir()) if p.is_dir()]
    return [f for f in folders if f.exists()]
