"""The payload's protocol as bytes: a request is one line of JSON, an answer is JSON lines (docs/payload.md).

What a host says is bounded here before anything else looks at it, and never shown as it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from gpuctl.core.errors import HostError, HostRefused
from gpuctl.core.outputs import printable

SCHEMA = 1
LONGEST_LINE = 24 * 1024 * 1024
"""Bytes: a metrics line of the 16 MiB that a payload lets pass, in base64, and some more."""
MOST_NOISE = 256 * 1024
"""Bytes of lines that are no events: a login script's greeting is let pass, a flood is not."""

Event = Mapping[str, object]


def encode_request(request: Mapping[str, object]) -> bytes:
    """The request line."""
    return json.dumps({"schema": SCHEMA, **request}, ensure_ascii=True).encode("ascii") + b"\n"


def parse_event(line: bytes) -> Event | None:
    """One line's event, or None where it is not one. Total: no bytes make it raise."""
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


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
            raise self._nonsense(f"a line of more than {LONGEST_LINE} bytes")
        return events

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
