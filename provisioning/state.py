"""The state of a run, read from what the supervisor leaves and from whether it lives."""

from __future__ import annotations

import fcntl
import os
import subprocess
from dataclasses import dataclass
from typing import Any, Optional

from provisioning.lease import deadline_armed, power_off_at
from provisioning.paths import Paths, disk_is_full, read_json
from provisioning.protocol import Channel

RUNNING = "running"
_MOST_DIGITS = 15
_FAR = 1e12
"""Seconds since the epoch: what the command may have written beyond it is no time, and neither is NaN."""


@dataclass(frozen=True)
class RunState:
    """`state` is none, running, succeeded, failed or stopped."""

    state: str
    exit_code: Optional[int] = None
    started: Optional[float] = None
    ended: Optional[float] = None
    why: Optional[str] = None

    @property
    def over(self) -> bool:
        """True once the command has ended, however."""
        return self.state not in ("none", RUNNING)


def supervisor_lives(paths: Paths) -> bool:
    """True while a supervisor holds its lock: unlike a pid, nothing else can come to hold that."""
    try:
        descriptor = os.open(paths.lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_state(paths: Paths) -> RunState:
    """The state of the run's current attempt on this host."""
    ended = _ended(paths)
    if ended is not None:
        return ended
    began = read_json(paths.state)
    started = _number(began, "started")
    if supervisor_lives(paths):
        return RunState("none") if began is None else RunState(RUNNING, started=started)
    # It may have ended between the two looks.
    return _ended(paths) or (RunState("none") if began is None else _unrecorded(paths, began))


def earlier_ended(paths: Paths) -> bool:
    """True where this attempt has not begun, and the last one that has is over, however it ended."""
    last = paths.last_begun()
    return last.attempt < paths.attempt and read_state(last).over


def supervised_attempt(paths: Paths) -> Optional[int]:
    """The attempt of the supervisor that lives; None where none does. It writes that down once it has the lock."""
    if not supervisor_lives(paths):
        return None
    try:
        text = paths.lock.read_bytes()[:8]
    except OSError:
        return None
    return int(text) if text.isdigit() else 1  # an early payload's, which had one attempt and wrote nothing


def _unrecorded(paths: Paths, began: dict[str, Any]) -> RunState:
    """A run whose supervisor went without writing down how it ended."""
    if began.get("boot") not in (None, boot_id()):
        why = "its host was restarted meanwhile"
    elif disk_is_full(paths):
        why = "its supervisor ended, and the host's disk is full"
    else:
        why = "its supervisor was killed (out of memory?)"
    return RunState("failed", started=_number(began, "started"), why=why)


def boot_id() -> str:
    """Tells one boot of this host from the next.

    A host of the embedded cloud shares its kernel with the laptop; where tmux has its sockets is new with each boot.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            kernel = file.read().strip()
    except OSError:
        kernel = ""
    return f"{kernel} {os.environ.get('TMUX_TMPDIR', '')}".strip()


def _ended(paths: Paths) -> Optional[RunState]:
    exit_record = read_json(paths.exit)
    if exit_record is None:
        return None
    code, why = exit_record.get("exit_code"), exit_record.get("why")
    return RunState(
        state=str(exit_record.get("state")),
        exit_code=code if isinstance(code, int) else None,
        started=_number(read_json(paths.state), "started"),
        ended=_number(exit_record, "ended"),
        why=why if isinstance(why, str) else None,
    )


def _number(record: Optional[dict[str, Any]], name: str) -> Optional[float]:
    value = record.get(name) if record else None
    return float(value) if isinstance(value, (int, float)) and abs(value) < _FAR else None


def describe(paths: Paths, *, gpus: Optional[list[dict[str, Any]]] = None) -> dict[str, Any]:
    """The fields of a `state` event."""
    run = read_state(paths)
    spec = read_json(paths.spec) or {}
    deadline = _number(spec, "deadline")
    return {
        "attempt": paths.attempt,
        "state": run.state,
        "exit_code": run.exit_code,
        "started": run.started,
        "ended": run.ended,
        "why": run.why,
        "provisioned": read_json(paths.provisioned) is not None,
        "log_bytes": size_of(paths.log),
        "metrics_bytes": size_of(paths.metrics),
        "deadline": deadline,
        "power_off_at": power_off_at(paths),
        "deadline_armed": deadline is not None and deadline_armed(deadline, str(spec.get("run"))),
        "receipt": read_json(paths.receipt),
        "gpus": gpus or [],
    }


def size_of(path: os.PathLike[str]) -> int:
    """A file's size in bytes; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def state_verb(paths: Paths, channel: Channel) -> int:
    """Answer the state, GPUs included unless the request says `"gpus": false`: `nvidia-smi` takes seconds."""
    request = channel.read_request()
    channel.emit("state", **describe(paths, gpus=look_at_gpus() if request.fields.get("gpus", True) else None))
    return 0


_QUERY = "name,utilization.gpu,memory.used,memory.total"


def look_at_gpus() -> list[dict[str, Any]]:
    """What `nvidia-smi` says of each GPU; nothing where it is absent or does not answer within ten seconds."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpus(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else []


def parse_gpus(text: str) -> list[dict[str, Any]]:
    """`nvidia-smi`'s CSV as objects; a line of another shape is left out, a value that is not a number is null."""
    gpus = []
    for line in text.splitlines():
        row = line.rsplit(",", 3)
        if len(row) == 4 and row[0].strip():
            utilization, used, total = (_whole(value) for value in row[1:])
            gpus.append(
                {
                    "name": row[0].strip(),
                    "utilization_percent": utilization,
                    "memory_used_mib": used,
                    "memory_total_mib": total,
                }
            )
    return gpus


def _whole(value: str) -> Optional[int]:
    stripped = value.strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) <= _MOST_DIGITS else None
