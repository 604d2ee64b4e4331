"""Where things are on a host, and the one way in which small files are written there: aside, then renamed."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class Places:
    """Everything is below `root`, `~/gpuctl`, but for environments that an image brings."""

    root: Path
    environments: Path

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
        """What of the workspace came from the laptop: `{path: [size, mtime_ns]}`."""
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
        """What the supervisor writes."""
        return self.root / "run"

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
        return self.run / "state.json"

    @property
    def exit(self) -> Path:
        """There from the moment that the command has ended."""
        return self.run / "exit.json"

    @property
    def stop(self) -> Path:
        """What the last `stop` asked."""
        return self.run / "stop.json"

    @property
    def listed(self) -> Path:
        """Whether the last manifest was made after training had ended: `{"over": bool}`."""
        return self.run / "listed.json"

    @property
    def receipt(self) -> Path:
        """The last pull that left nothing behind."""
        return self.run / "receipt.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.run / "lock"


def here() -> Places:
    """The places of the user that asks. Makes `~/gpuctl`, for this user's eyes alone."""
    root = Path.home() / "gpuctl"
    root.mkdir(mode=0o700, exist_ok=True)
    brought = os.environ.get("GPUCTL_ENVIRONMENTS")
    return Places(root=root, environments=Path(brought) if brought else root / "envs")


def forget_last_run(places: Places) -> None:
    """Before a command starts: how the last one went. The log and the metrics go on; they only ever grow."""
    for leftover in (places.exit, places.state, places.stop, places.listed, places.receipt):
        leftover.unlink(missing_ok=True)


def note_traceback(places: Optional[Places]) -> None:
    """Keep the traceback of what nobody foresaw; where even that cannot be written, what follows is still told."""
    if places is None:
        return
    try:
        with open(places.root / "errors", "a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
    except OSError:
        return


def write_json(path: Path, value: Any) -> None:
    """Write a small file whole or not at all, and on the disk when this returns. Mode 600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> Optional[dict[str, Any]]:
    """The object in a file, or None where there is no such file or nothing readable in it."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
