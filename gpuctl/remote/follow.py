"""A run's log and metrics as they are written, from byte offsets: a broken connection loses and doubles nothing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from gpuctl.core.errors import HostError
from gpuctl.core.host_state import Gpu, HostState, parse_gpus, parse_host_state
from gpuctl.remote.host import Host
from gpuctl.remote.protocol import Event

SILENCE_S = 15.0
"""The payload says that it is alive every 5 s; three of those missed is a host that does not answer."""


@dataclass(frozen=True)
class LogChunk:
    """Bytes of the log from `offset` on. They are the training command's own: never show them raw."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True)
class MetricsChunk:
    """Whole lines of the metrics file from `offset` on."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True)
class Differs:
    """What the laptop has of `log` or `metrics` is not how that file begins: it comes again, from 0."""

    file: str


@dataclass(frozen=True)
class Alive:
    """The host answers and has nothing new."""


@dataclass(frozen=True)
class GpusSeen:
    """How the host's GPUs are used now."""

    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Ended:
    """All is sent (`until_end`: and training has ended)."""

    state: HostState


Following = LogChunk | MetricsChunk | Differs | Alive | GpusSeen | Ended


def follow(
    host: Host,
    *,
    log_offset: int,
    metrics_offset: int,
    until_end: bool,
    log_sha256: str | None = None,
    metrics_sha256: str | None = None,
    gpus: bool = False,
    silence_s: float = SILENCE_S,
) -> Iterator[Following]:
    """What comes after these offsets, as it comes; `Ended` last. To go on later, ask from the last chunks' `end`.

    Bytes that the caller has already are never given again; an offset of 0 behind a larger one means that the file was
    begun anew. With the hash of what the caller has, the host compares it with its own, and `Differs` comes before the
    file from its start where they are not the same. With `gpus`, their use comes every ten seconds where there are any.

    Closing the iterator (`contextlib.closing`, whatever happens in its loop) ends the command on the host. Raises
    HostUnreachable after `silence_s` without an event or where the link breaks.
    """
    request = {
        "log_offset": log_offset,
        "metrics_offset": metrics_offset,
        "until_end": until_end,
        "log_sha256": log_sha256,
        "metrics_sha256": metrics_sha256,
        "gpus": gpus,
    }
    reached = {"log": log_offset, "metrics": metrics_offset}
    with host.watch("follow", request, silence_s=silence_s) as events:
        for event in events:
            kind = event["event"]
            if kind == "alive":
                yield Alive()
            elif kind == "gpus":
                yield GpusSeen(parse_gpus(event.get("gpus")))
            elif kind == "differs" and (file := str(event.get("file"))) in reached:
                reached[file] = 0
                yield Differs(file)
            elif kind == "log" or kind == "metrics":
                offset, data = _new(host, event, reached[str(kind)])
                reached[str(kind)] = offset + len(data)
                if data:
                    yield LogChunk(offset, data) if kind == "log" else MetricsChunk(offset, data)
            elif kind == "end":
                yield Ended(parse_host_state(event.get("state")))
                return
    raise HostError(f"{host.name} stopped telling of the run before its end", "try again")


def _new(host: Host, event: Event, reached: int) -> tuple[int, bytes]:
    """An event's bytes without those that were there before."""
    offset, text = event.get("offset"), event.get("data")
    try:
        if type(offset) is not int or not isinstance(text, str):
            raise ValueError
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise HostError(f"{host.name} answered with a log that cannot be read", "try again") from None
    if offset != 0 and not reached >= offset >= 0:
        raise HostError(f"{host.name} left a part of the log out", "try again")
    return (0, data) if offset == 0 else (reached, data[reached - offset :])
