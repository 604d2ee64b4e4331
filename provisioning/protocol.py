"""The two sides of a conversation: one request in, JSON lines out. docs/payload.md says which."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Optional

SCHEMA = 1
ALIVE_S = 4.0
"""Seconds between two `alive` of a host that is at work and has nothing to tell."""


class PayloadError(Exception):
    """What happened to what (`message`), and what a person can do about it (`next_step`)."""

    def __init__(self, message: str, next_step: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class Request:
    """A request's fields, each checked where it is read. Raises PayloadError that names the field."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def text(self, name: str) -> str:
        """A required string."""
        return str(self._typed(name, str, "text"))

    def number(self, name: str, default: Optional[float] = None) -> float:
        """A number, required unless there is a default."""
        if default is not None and self.fields.get(name) is None:
            return default
        value = self._typed(name, (int, float), "a number")
        if isinstance(value, bool):
            raise PayloadError(f"the request's {name} is not a number")
        return float(value)

    def flag(self, name: str) -> bool:
        """A boolean; False where it is absent."""
        return bool(self.fields.get(name, False))

    def texts(self, name: str) -> list[str]:
        """A required list of strings."""
        value = self._typed(name, list, "a list")
        if not all(isinstance(item, str) for item in value):
            raise PayloadError(f"the request's {name} is not a list of text")
        return [str(item) for item in value]

    def mapping(self, name: str) -> dict[str, Any]:
        """An object; empty where it is absent or null."""
        if self.fields.get(name) is None:
            return {}
        return dict(self._typed(name, dict, "an object"))

    def _typed(self, name: str, kind: Any, said: str) -> Any:
        value = self.fields.get(name)
        if not isinstance(value, kind):
            raise PayloadError(
                f"the request's {name} is not {said}", "use the same gpuctl for launch and later commands"
            )
        return value


class Channel:
    """Standard input, and where events go.

    `deaf_to_loss`: once set, a laptop that has gone away is no reason to stop: what was begun here is finished, and
    the next call finds it done.
    """

    def __init__(self, body: BinaryIO, events: BinaryIO) -> None:
        self.body = body
        self.events = events
        self.deaf_to_loss = False
        self._lost = False

    def emit(self, event: str, **fields: Any) -> None:
        """Send one event, at once."""
        self.queue(event, **fields)
        self.flush()

    def queue(self, event: str, **fields: Any) -> None:
        """Send one event with the next `flush`; for the many events of a listing."""
        if not self._lost:
            self._guard(self.events.write, json.dumps({"event": event, **fields}).encode("ascii") + b"\n")

    def flush(self) -> None:
        """Put queued events on the wire."""
        if not self._lost:
            self._guard(self.events.flush)

    @contextmanager
    def alive(self, every_s: float) -> Iterator[None]:
        """Within, the laptop hears that often that the host is at work; what is queued goes out with it."""
        over = threading.Event()

        def tell() -> None:
            with suppress(OSError):  # whoever works here meets it too
                while not over.wait(every_s):
                    self.emit("alive")

        thread = threading.Thread(target=tell, name="alive", daemon=True)
        with suppress(RuntimeError):  # the command has used up all threads
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()

    def read_request(self) -> Request:
        """The request line. Raises PayloadError where there is none that this payload understands."""
        line = self.body.readline()
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise PayloadError("no request came: one line of JSON on standard input was expected")
        if fields.get("schema") != SCHEMA:
            raise PayloadError(
                f"this host's payload speaks schema {SCHEMA}, the request schema {fields.get('schema')!r}",
                "use the gpuctl that launched the run",
            )
        return Request(fields)

    def _guard(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except (BrokenPipeError, ConnectionResetError):
            if not self.deaf_to_loss:
                raise
            self._lost = True
