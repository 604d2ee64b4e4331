"""One folder a run: what was asked of AWS, the keys, what is known of the training, what is home."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gpuctl.core.errors import GpuctlError, UsageError
from gpuctl.core.job import run_name_ok
from gpuctl.core.plan import Plan

SCHEMA = 1
_LOOKED_AT_S = 1.0
"""Longer than whoever only looks whether a run is being launched holds its lock."""


@dataclass(frozen=True)
class RunRecord:
    """`run.json`, written whole before each attempt's fleet call: one whose answer was lost is made from it again."""

    plan: Plan
    attempt: int
    template_request: dict[str, Any] | None = None
    fleet_request: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as it is stored."""
        return {"schema": SCHEMA, **asdict(self), "plan": self.plan.to_json()}


@dataclass(frozen=True)
class Progress:
    """What this laptop has seen of a run: `progress.json`.

    Each is set before the deed: `claim` (the word that this launch's security group carries) before the group is made,
    `asked` (the kind of what is being made, since `asked_at`) before the call, `fleet_tries` before the fleet's,
    `started` before the start. What a call has answered is in `made` (kind and id), and nothing is `asked` then.
    `start_answered` is False from the start until the host has answered: whether it trains, only the host knows.
    """

    claim: str | None = None
    asked: str | None = None
    asked_at: float = 0.0
    made: tuple[tuple[str, str], ...] = ()
    fleet_tries: int = 0
    instance_ids: tuple[str, ...] = ()
    started: bool = False
    start_answered: bool | None = None
    ended: str | None = None
    exit_code: int | None = None
    destination: str | None = None
    home: bool = False
    down: bool = False


_SEEN: Mapping[str, tuple[type, ...]] = {
    "asked_at": (int, float),
    "made": (list,),
    "fleet_tries": (int,),
    "instance_ids": (list,),
    "started": (bool,),
    "start_answered": (bool, type(None)),
    "exit_code": (int, type(None)),
    "home": (bool,),
    "down": (bool,),
}
"""What a field of a stored Progress may be; any other is a text or null."""


@dataclass(frozen=True)
class Seen:
    """What a run's host said of its training when it was last asked, `seen.json`: times as `core.tags.iso` has them.

    `why` is the reason for its state, `power_off_at` when the host ends itself, each where it told one.
    """

    state: str
    at: str
    why: str | None = None
    power_off_at: str | None = None


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

    @property
    def log(self) -> Path:
        """The part of the host's log that is here already."""
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        """The part of the host's metrics that is here already."""
        return self.path / "metrics.jsonl"

    def exists(self) -> bool:
        """True where this laptop knows of the run."""
        return (self.path / "run.json").exists()

    def has_key(self) -> bool:
        """True where this laptop can reach the run's hosts."""
        return self.identity.exists() and self.known_hosts.exists()

    def read(self) -> RunRecord:
        """The record. Raises GpuctlError where it cannot be read."""
        try:
            data = json.loads((self.path / "run.json").read_text())
            return RunRecord(
                plan=Plan.from_json(data["plan"]),
                attempt=data["attempt"],
                template_request=data["template_request"],
                fleet_request=data["fleet_request"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GpuctlError(
                f"what this laptop knows of run {self.name} cannot be read ({self.path / 'run.json'}: {error!r})",
                "move that folder away; `gpuctl ls` and `gpuctl down` work without it",
            ) from error

    def write(self, record: RunRecord) -> None:
        """Write the record whole."""
        self.write_file("run.json", json.dumps(record.to_json(), indent=1))

    def progress(self) -> Progress:
        """What has been seen of the run so far; nothing where that is damaged: what is up of it, the account tells."""
        return self._progress() or Progress()

    def may_have_started(self) -> bool:
        """False only where this laptop knows that training never started; what it has seen may be lost."""
        seen = self._progress()
        return seen is None or seen.started

    def _progress(self) -> Progress | None:
        data = self._json("progress.json")
        known = {k: v for k, v in data.items() if k in Progress.__dataclass_fields__}
        if not known or not all(isinstance(value, _SEEN.get(name, (str, type(None)))) for name, value in known.items()):
            return None
        try:
            known["instance_ids"] = tuple(known.get("instance_ids", ()))
            known["made"] = tuple((str(kind), str(id_)) for kind, id_ in known.get("made", ()))
        except (TypeError, ValueError):
            return None
        return Progress(**known)

    def note(self, **changes: Any) -> Progress:
        """Write down what has been seen now. Where what was seen before is lost, training may have started."""
        progress = replace(self._progress() or Progress(started=self.exists()), **changes)
        self.write_file("progress.json", json.dumps(asdict(progress)))
        return progress

    def seen(self) -> Seen | None:
        """What the host said last."""
        data = self._json("seen.json")
        if not {"state", "at"} <= data.keys():
            return None
        why, off = (str(data[name]) if data.get(name) else None for name in ("why", "power_off_at"))
        return Seen(str(data["state"]), str(data["at"]), why, off)

    def note_seen(self, seen: Seen) -> None:
        """Write down what the host says now. Apart from `progress`: whoever only looks changes nothing of that."""
        self.write_file("seen.json", json.dumps(asdict(seen)))

    def pulled(self) -> dict[str, Any]:
        """What `pull` has brought home, by name."""
        return self._json("pulled.json")

    def pulled_lock(self) -> FileLock:
        """Held by whoever reads it to change it: two pulls of a run, into two folders, may go on at once."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(self.path / ".pulled.lock")

    def write_pulled(self, pulled: Mapping[str, Any]) -> None:
        """Remember what is home."""
        self.write_file("pulled.json", json.dumps(pulled))

    def write_file(self, name: str, text: str) -> Path:
        """Write one file whole, readable by its owner alone."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, aside = tempfile.mkstemp(dir=self.path, prefix=f".{name}-")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(self.path / name)
        return self.path / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against another gpuctl on this laptop. Raises UsageError where one is at it."""
        lock = FileLock(self.path.parent / f".{self.name}.lock")
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with lock.acquire(timeout=_LOOKED_AT_S):
                yield
        except Timeout:
            raise UsageError(f"another gpuctl is launching {self.name} now", "give this one another --name") from None

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
        try:
            record = self.read()
        except GpuctlError:  # damaged, and so there is nothing in it to forget
            return
        self.write(replace(record, template_request=None, fleet_request=None))

    def remove(self) -> None:
        """Remove the folder: the run was undone before it was one."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}


def run_folder(runs: Path, name: str) -> RunFolder:
    """The folder of the run called `name`, there or not; what is no run's name (a tag may hold anything) has none."""
    return RunFolder(runs / (name if run_name_ok(name) else "-"))


def all_run_folders(runs: Path) -> list[RunFolder]:
    """The folders of the runs that this laptop knows of, by name."""
    if not runs.is_dir():
        return []
    folders = [RunFolder(p) for p in sorted(runs.iterdir()) if p.is_dir()]
    return [f for f in folders if f.exists()]
