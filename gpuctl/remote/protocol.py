"""The payload's protocol as bytes: a request is one line of JSON, an answer is JSON lines (docs/payload.md).

What a host says is bounded here before anything else looks at it, and never shown as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gpuctl.core.codec import Unreadable, parse
from gpuctl.core.errors import HostError, HostRefused
from gpuctl.core.outputs import printable

SCHEMA = 1
LONGEST_LINE = 2 * 1024 * 1024
"""Bytes: a metrics line of the 1 MiB that a payload lets pass, in base64, and some more. What JSON becomes in memory
is thirty times as much."""
MOST_NOISE = 256 * 1024
"""Bytes of lines that are no events: a login script's greeting is let pass, a flood is not."""

_DEEPEST = 8
_PIECE = re.compile(rb'\{"event": "(log|metrics)", "offset": ([0-9]{1,18}), "data": "')
"""How a payload begins an event that has a piece of a file."""

Event = Mapping[str, object]


@dataclass(frozen=True)
class Patience:
    """How long a host is heard out: in all, since its last event, and for how many events.

    That it answers SSH's own questions is no reason to go on waiting: whoever never gets on with what it was asked is
    given up.
    """

    total_s: float
    silence_s: float
    events: int = 100

    def within(self, total_s: float) -> Patience:
        """The same, for that time, silent or not."""
        return Patience(total_s, total_s, self.events)


ONE_ANSWER = Patience(30, 30)
"""A question that has one answer: `state` asks `nvidia-smi`, for ten seconds at most."""
PATIENCE = {
    "state": Patience(60, 60),
    "start": Patience(120, 120),
    "receipt": Patience(60, 60),
    "manifest": Patience(3600, 300, events=1_100_000),
    "provision": Patience(3 * 3600, 1800, events=2_000_000),
}
"""By verb. A listing may walk through millions of files of which it tells nothing, and payloads of earlier versions do
not say meanwhile that they are alive; pip and apt install for long so."""


def encode_request(request: Mapping[str, object]) -> bytes:
    """The request line."""
    return json.dumps({"schema": SCHEMA, **request}, ensure_ascii=True).encode("ascii") + b"\n"


def parse_event(line: bytes) -> Event | None:
    """One line's event, or None where it is not one. Total: no bytes make it raise."""
    try:
        value = parse(line)
    except Unreadable:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("event"), str) or not _is_shallow(value, _DEEPEST):
        return None
    return value


def _is_shallow(value: object, levels: int) -> bool:
    """False where whoever walks through the value (`str` does) could run out of stack."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


class EventReader:
    """Bytes in as they come, events out; at most one line is held. `name` is the host's, for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = bytearray()
        self._noise = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises HostError on an endless line or a flood of noise."""
        start = len(self._held)
        self._held += data
        done = 0
        events: list[Event] = []
        while (end := self._held.find(b"\n", max(start, done))) >= 0:
            line = bytes(self._held[done:end])
            done = end + 1
            event = parse_event(line)
            if event is not None:
                events.append(event)
            else:
                self._count_noise(len(line) + 1)
        del self._held[:done]
        if len(self._held) > LONGEST_LINE:
            events.append(self._first_part())
        return events

    def _first_part(self) -> Event:
        """Of a line that is too long to be held, where it is a piece of a file, what is here: an event of its own.

        Payloads of earlier versions send a metrics line of 16 MiB as one event. Raises HostError of any other line.
        """
        began = _PIECE.match(self._held)
        if began is None:
            raise self._nonsense(f"a line of more than {LONGEST_LINE} bytes")
        kind, offset = began[1].decode("ascii"), int(began[2])
        last = len(self._held) - 8  # what ends the event may be here already, and its newline not
        end = last - (last - began.end()) % 4
        data = self._held[began.end() : end].decode("latin-1")
        rest = offset + len(data) // 4 * 3
        self._held[:end] = b'{"event": "%s", "offset": %d, "data": "' % (began[1], rest)
        return {"event": kind, "offset": offset, "data": data}

    def _count_noise(self, size: int) -> None:
        self._noise += size
        if self._noise > MOST_NOISE:
            raise self._nonsense("too much that is not its protocol")

    def _nonsense(self, what: str) -> HostError:
        return HostError(
            f"{self._name} answered with {what}",
            "look at the host with `gpuctl ssh`, or take it down with `gpuctl down`",
        )


def refused(name: str, event: Event) -> HostRefused:
    """An `error` event as the error that it tells of."""
    message, step = event.get("message"), event.get("next")
    text = printable(message) if isinstance(message, str) and message else "it failed and did not say why"
    return HostRefused(f"{name}: {text}", printable(step) if isinstance(step, str) and step else None)
