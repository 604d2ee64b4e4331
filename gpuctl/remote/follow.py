"""A run's log and metrics as they are written, from byte offsets: a broken connection loses and doubles nothing."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator
from dataclasses import dataclass

from gpuctl.core.errors import HostError
from gpuctl.core.host_state import Gpu, HostState, parse_gpus, parse_host_state
from gpuctl.remote.host import Host
from gpuctl.remote.protocol import Event
from gpuctl.remote.session import HostSilent

SILENCE_S = 15.0
"""The payload says that it is alive every 5 s; three of those missed is a host that does not answer."""
_STILL_S = 60.0
"""How long a host that is asked for what there is may compare copies before the first of it comes."""
_COMPARED_A_SECOND = 8_000_000
"""Bytes of a copy that the slowest disk compares in a second."""
_MOST_AT_ONCE = 16 * 1024**3
_PIECE = 64 * 1024
"""Bytes of a log that become lines at once: a line takes a hundred times the memory of its newline."""


@dataclass(frozen=True)
class _Chunk:
    offset: int
    data: bytes


class LogChunk(_Chunk):
    """Bytes of the log from `offset` on. They are the training command's own: never show them raw."""


class MetricsChunk(_Chunk):
    """Whole lines of the metrics file from `offset` on."""


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
    still_s: float = _STILL_S,
) -> Iterator[Following]:
    """What comes after these offsets, as it comes; `Ended` last. To go on later, ask from where the last chunks end.

    Bytes that the caller has already are never given again; an offset of 0 behind a larger one means that the file was
    begun anew. With the hash of what the caller has, the host compares it with its own, and `Differs` comes before the
    file from its start where they are not the same. With `gpus`, their use comes every ten seconds where there are any.

    Closing the iterator (`contextlib.closing`, whatever happens in its loop) ends the command on the host. Raises
    HostSilent after `silence_s` without an event, HostUnreachable where the link breaks. Where only what is there is
    asked for it ends in any case: HostSilent after `still_s`, and the time that it takes to compare what the caller
    has, in which nothing of it came.
    """
    request = {
        "log_offset": log_offset,
        "metrics_offset": metrics_offset,
        "until_end": until_end,
        "log_sha256": log_sha256,
        "metrics_sha256": metrics_sha256,
        "gpus": gpus,
    }
    still_s += (log_offset + metrics_offset) / _COMPARED_A_SECOND
    progress = _Progress(host, {"log": log_offset, "metrics": metrics_offset}, None if until_end else still_s)
    with host.watch("follow", request, silence_s=silence_s) as events:
        for event in events:
            if event["event"] == "end":
                yield Ended(parse_host_state(event.get("state")))
                return
            progress.check()
            yield from progress.took(event)
    raise HostError(f"{host.name} stopped reporting on the run before its end", "try again")


class _Progress:
    """How far each file is, and whether the host gets on: `still_s` None where it may have nothing to tell."""

    def __init__(self, host: Host, reached: dict[str, int], still_s: float | None) -> None:
        self._host, self._reached, self._still_s = host, reached, still_s
        self._compared: set[str] = set()
        self._bytes = 0
        self._still, self._seen = 0.0, time.monotonic()

    def check(self) -> None:
        """Raises where only what is there was asked for, and it does not come to its end."""
        if self._still_s is None:
            return
        now = time.monotonic()
        self._still += min(now - self._seen, SILENCE_S)  # longer it is silent, or this laptop was stopped
        self._seen = now
        if self._still > self._still_s:
            raise HostSilent(f"{self._host.name} did not send its log in time", "try again")
        if self._bytes > _MOST_AT_ONCE:
            raise HostError(f"{self._host.name} sends an endless log", "look at it with `gpuctl ssh`")

    def took(self, event: Event) -> Iterator[Following]:
        """What an event means: of a file only what is new."""
        kind = event["event"]
        if kind == "alive":
            yield Alive()
        elif kind == "gpus":
            yield GpusSeen(parse_gpus(event.get("gpus")))
        elif kind == "differs" and event.get("file") in ("log", "metrics"):
            yield self._differs(str(event["file"]))
        elif kind == "log":
            offset, data = self._new("log", event)
            for at in range(0, len(data), _PIECE):
                yield LogChunk(offset + at, data[at : at + _PIECE])
        elif kind == "metrics":
            offset, data = self._new("metrics", event)
            if data:
                yield MetricsChunk(offset, data)

    def _differs(self, file: str) -> Differs:
        """That file is compared once, at its beginning."""
        if file in self._compared:
            raise HostError(f"{self._host.name} keeps comparing the {file}", "try again")
        self._compared.add(file)
        self._reached[file] = 0
        return Differs(file)

    def _new(self, file: str, event: Event) -> tuple[int, bytes]:
        """An event's bytes without those that were there before, and their offset."""
        offset, data = _new(self._host, event, self._reached[file])
        self._reached[file] = offset + len(data)
        if data:
            self._bytes, self._still = self._bytes + len(data), 0.0
        return offset, data


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
        raise HostError(f"{host.name} left out part of the log", "try again")
    return (0, data) if offset == 0 else (reached, data[reached - offset :])
