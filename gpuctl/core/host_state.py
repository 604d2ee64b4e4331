"""What a host says of its training (docs/payload.md, `state`), as far as it can be believed.

A host may say anything: what is not what it should be is as if it had not been said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from gpuctl.core.text import safe

Training = Literal["none", "running", "succeeded", "failed", "stopped", "unknown"]
"""How the training on a host stands. `none`: it was never started; `unknown`: the host says no word of these."""

ENDED: tuple[Training, ...] = ("succeeded", "failed", "stopped")
_SAID: tuple[Training, ...] = ("none", "running", *ENDED)

_LONGEST = 400
_FAR = 10_000_000_000
"""Seconds since the epoch: what a host tells beyond it is no time."""
_MOST_GPUS = 64


_BY_CODE = {
    134: "it aborted (SIGABRT)",
    137: "it was killed (SIGKILL), most likely because the host's memory was full",
    139: "it crashed (SIGSEGV)",
    143: "it was terminated (SIGTERM)",
}
"""What a code of 128 + N says to who knows signal N. https://man7.org/linux/man-pages/man7/signal.7.html"""


@dataclass(frozen=True)
class Gpu:
    """One GPU as `nvidia-smi` has it; None where it gives no number."""

    name: str
    utilization_percent: int | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None


@dataclass(frozen=True)
class HostState:
    """A host's word. `why`: the reason for its state, or what its exit code means, one line that is safe to show;
    `power_off_at`: when the host will power itself off, None where only its lease ends it."""

    training: Training = "none"
    exit_code: int | None = None
    why: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    power_off_at: datetime | None = None
    gpus: tuple[Gpu, ...] = ()

    @property
    def over(self) -> bool:
        """True once training has ended, however."""
        return self.training in ENDED

    @property
    def ran_s(self) -> float | None:
        """For how many seconds the training ran, once it has ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


def parse_host_state(said: object) -> HostState:
    """The fields of a `state` event, or of a `state` in another; any value gives an answer."""
    if not isinstance(said, Mapping):
        return HostState("unknown")
    training: Training = next((one for one in _SAID if one == said.get("state")), "unknown")
    code = _whole(said.get("exit_code"))
    meant = _BY_CODE.get(code or 0) if training == "failed" else None
    return HostState(
        training=training,
        exit_code=code,
        why=_line(said.get("why")) or meant,
        started=_moment(said.get("started")),
        ended=_moment(said.get("ended")),
        power_off_at=_moment(said.get("power_off_at")),
        gpus=parse_gpus(said.get("gpus")),
    )


def parse_gpus(said: object) -> tuple[Gpu, ...]:
    """The `gpus` of a `state` or a `gpus` event; any value gives an answer."""
    known = [gpu for gpu in said if isinstance(gpu, Mapping)] if isinstance(said, list) else []
    return tuple(map(_gpu, known[:_MOST_GPUS]))


def _gpu(said: Mapping[str, object]) -> Gpu:
    names = ("utilization_percent", "memory_used_mib", "memory_total_mib")
    return Gpu(_line(said.get("name")) or "GPU", *(_whole(said.get(name)) for name in names))


def _whole(value: object) -> int | None:
    return value if type(value) is int and abs(value) < _FAR else None


def _line(value: object) -> str | None:
    return (safe(value[: 4 * _LONGEST])[:_LONGEST] or None) if isinstance(value, str) else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < _FAR:
        return None
    return datetime.fromtimestamp(value, timezone.utc)
