"""Where an embedded cloud keeps what is its own, and the file by which others find it.

Nothing here imports moto: `start`, `stop` and `status` ask what runs, in milliseconds.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuctl import web
from gpuctl.core.cloud_key import health_words, proves
from gpuctl.core.codec import dumps, loads, parse
from gpuctl.locks import is_held

HEALTH_TIMEOUT_S = 5.0
_HEALTH_LIMIT = 65536


@dataclass(frozen=True)
class Running:
    """A cloud that runs: its API's address, its process, its state folder, its start in seconds since the epoch.

    `key` is what it shares with its owner; empty where a gpuctl that had none started it.
    """

    endpoint: str
    pid: int
    started: float
    state: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Place:
    """The files below a state folder. `serve_lock` is held as long as a cloud lives, so it says whether one does."""

    state: Path

    @classmethod
    def at(cls, state: Path) -> Place:
        """The place at `state`, made where it is missing (readable by its owner alone), its name made absolute."""
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        return cls(state.resolve())

    @property
    def cloud_json(self) -> Path:
        return self.state / "cloud.json"

    @property
    def port(self) -> Path:
        """The port that the last cloud had, so that the next has the same where it is free."""
        return self.state / "port"

    @property
    def log(self) -> Path:
        return self.state / "cloud.log"

    @property
    def start_lock(self) -> Path:
        return self.state / "start.lock"

    @property
    def serve_lock(self) -> Path:
        return self.state / "cloud.lock"

    @property
    def hosts(self) -> Path:
        """Hosts' disks, a folder for each instance."""
        return self.state / "hosts"

    @property
    def ledger(self) -> Path:
        """A file for each instance that is not terminated, with its host's process id: what a dead cloud had."""
        return self.state / "instances"


def write_aside(path: Path, text: str) -> None:
    """Writes a file whole or not at all: aside, then renamed. Readable by its owner alone."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.touch(mode=0o600)
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def publish(place: Place, running: Running) -> None:
    """Says to everybody who knows the state folder which cloud runs on it."""
    write_aside(place.cloud_json, dumps(running) + "\n")
    write_aside(place.port, running.endpoint.rpartition(":")[2] + "\n")


def recorded(place: Place) -> Running | None:
    """What `cloud.json` says, true or not; None where there is none or it cannot be read."""
    try:
        return loads(place.cloud_json.read_bytes(), Running)
    except (OSError, ValueError):
        return None


def last_port(place: Place) -> int:
    """The port that the last cloud on this state had; 0 where none is known."""
    try:
        return int(place.port.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def ask_health(cloud: Running, *, timeout_s: float = HEALTH_TIMEOUT_S) -> dict[str, Any] | None:
    """What the cloud says of itself; None where nothing answers, or something that has not its key."""
    nonce = secrets.token_hex(16)
    url = f"{cloud.endpoint}/gpuctl/health?nonce={nonce}"
    try:
        values = parse(web.get(url, limit=_HEALTH_LIMIT, timeout_s=timeout_s, key=cloud.key))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict):
        return None
    itself = not cloud.key or proves(cloud.key, values.get("proof"), *health_words(nonce, cloud.endpoint))
    return values if itself else None


def running(place: Place) -> Running | None:
    """The cloud that runs on this state and answers; None for a stale file or a port that something else took."""
    record = recorded(place)
    if record is None or not (record.key or is_held(place.serve_lock)):  # a cloud of before has no key
        return None
    health = ask_health(record)
    if health is None or health.get("pid") != record.pid or health.get("state") != str(place.state):
        return None
    return record
