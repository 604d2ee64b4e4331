"""Where an embedded cloud keeps what is its own, and the file by which others find it.

Nothing here imports moto: `start`, `stop` and `status` ask what runs, in milliseconds.
"""

from __future__ import annotations

import http.client
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuctl.core.codec import dumps, loads, parse

HEALTH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Running:
    """A cloud that runs: its API's address, its process, its state folder, its start in seconds since the epoch."""

    endpoint: str
    pid: int
    started: float
    state: str


@dataclass(frozen=True)
class Place:
    """The files below a state folder. `serve_lock` is held as long as a cloud lives, so it says whether one does."""

    state: Path

    @classmethod
    def at(cls, state: Path) -> Place:
        """The place at `state`, made where it is missing (readable by its owner alone), its name made absolute."""
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(state.resolve())

    @property
    def cloud_json(self) -> Path:
        return self.state / "cloud.json"

    @property
    def port(self) -> Path:
        """The port that the last cloud had, so that the next has the same and exported variables stay valid."""
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
    aside.write_text(text, encoding="utf-8")
    aside.chmod(0o600)
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


def ask_health(endpoint: str, *, timeout_s: float = HEALTH_TIMEOUT_S) -> dict[str, Any] | None:
    """What answers at `endpoint` says of itself; None where nothing, or something else, answers."""
    address = endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", "/gpuctl/health")
        answer = connection.getresponse()
        values = parse(answer.read(65536)) if answer.status == http.HTTPStatus.OK else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return values if isinstance(values, dict) else None


def running(place: Place) -> Running | None:
    """The cloud that runs on this state and answers; None for a stale file or a port that something else took."""
    record = recorded(place)
    if record is None:
        return None
    health = ask_health(record.endpoint)
    if health is None or health.get("pid") != record.pid or health.get("state") != str(place.state):
        return None
    return record
