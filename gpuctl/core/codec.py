"""The one way from values to JSON and back: what is stored, what is sent, what `--json` prints.

A value is a frozen dataclass. Money is a number of dollars, a time ISO 8601 in UTC to the second. What a field of the
JSON is not known for is ignored, what is missing has its default: so a record outlives the version that wrote it.

Python's own `json` makes the text and msgspec the types: a file name that is not UTF-8 (a lone surrogate) is a text
here, which msgspec's own encoder refuses.
"""

from __future__ import annotations

import json
import math
import threading
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gpuctl.core.tags import iso

T = TypeVar("T")
# msgspec learns a dataclass when it first reads one, and crashes (0.22.0) where a second thread reads it meanwhile.
_CONVERTING = threading.RLock()


class Unreadable(ValueError):
    """JSON that is not what it should be; the text says where (`Expected int, got str - at $.attempt`)."""


def dumps(value: object, *, indent: int | None = None) -> str:
    """A value as JSON."""
    return json.dumps(to_plain(value), indent=indent)


def to_plain(value: object) -> Any:
    """A value as dictionaries, lists, texts, numbers and nulls."""
    return _plain(msgspec.to_builtins(value, builtin_types=(datetime, Decimal), enc_hook=_path))


def loads(text: str | bytes, kind: type[T]) -> T:
    """The value of that type in a JSON text. Raises Unreadable."""
    return from_plain(parse(text), kind)


def from_plain(data: object, kind: type[T]) -> T:
    """The value of that type in what `json` gives. Raises Unreadable."""
    try:
        with _CONVERTING:
            return msgspec.convert(data, kind, dec_hook=_from_path)
    except Exception as error:  # a ValidationError, and of a text with half a character or of depth any other
        raise Unreadable(str(error)) from error


def parse(text: str | bytes) -> Any:
    """Any JSON, NaN and infinities refused. Raises Unreadable."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal):
        return float(value)
    return iso(value) if isinstance(value, datetime) else value


def _path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _from_path(kind: type, value: object) -> object:
    if issubclass(kind, Path) and isinstance(value, str):
        return kind(value)
    raise TypeError(f"{kind.__name__} cannot be read from JSON")
