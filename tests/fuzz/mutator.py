"""Good input with something wrong in it: the same for the same seed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

_TOKENS = re.compile(rb"\w+|\s+|[^\w\s]", re.DOTALL)

HUGE = (b"9" * 400, b"9" * 5000, b"1e400", b"-1", b"0", b"-0.0", b"NaN", b"Infinity", b"18446744073709551616", b"1e308")
ODD = (
    *(b"\0", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", "\u202e\u2028\x1b]0;x\x07\x1b[2J".encode(), b"\\ud800", b"\r"),
    *(b"\n", b"\\", b'"', b"'", b"%s", b"../../..", b"/", b"\xef\xbb\xbf", b"&#0;", b"<!--", b"]]>", b"*", b"**", b"!"),
    *(b"\\u0000", b"${HOME}", b"-", b"--", b"=", b":", b"null", b"true", b"{}", b"[]", b'""', "é".encode(), b"\x80"),
)
NESTED = (b"[", b"{", b"(", b'{"a":', b"[[", b"a.", b"<a>", b"-", b"x=[", b"(?:", b"not ", b"(a|b)*", b",", b"*/", b"]")
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 10**18, 10**30, 10**320, 1e300, -1e-300, 253402300800, "", "\0", "x" * 5000),
    *("\ud800", "\x1b[2J\u202e", [], {}, [[[]]], {"a": {}}, ["a", 1], "9" * 5000, "../..", "/etc/passwd", 0.5, "NaN"),
)


def mutated(examples: Sequence[bytes], seed: int) -> bytes:
    """One of the examples, with one to eight things done to it; now and then as it is."""
    rng = random.Random(seed)
    data = rng.choice(examples)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 8])):
        data = rng.choice(_KINDS)(data, rng, examples)
    return data


def _span(data: bytes, rng: random.Random, most: int = 64) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randrange(1, most))


def _flip(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(data), rng.choice([1, 1, 4, 30]))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _truncate(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return rng.choice([data[:at], data[at:]])


def _double(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice([1, 2, 300]) + data[end:]


def _splice(data: bytes, rng: random.Random, examples: Sequence[bytes]) -> bytes:
    start, end = _span(rng.choice(examples), rng, 400)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(examples)[start:end] + data[at:]


def _odd(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((*HUGE, *ODD)) + data[at:]


def _long(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Deep, or a line without end: rarely very much, for it takes long to make."""
    at = rng.randrange(len(data) + 1)
    times = rng.choice([30, 300, 300, 3000, 30_000 if rng.random() < 0.2 else 10])
    return data[:at] + rng.choice((*NESTED, *ODD, b"x", b"9")) * times + data[at:]


def _token(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """A word or a sign in the place of another."""
    tokens = _TOKENS.findall(data[:100_000])
    if not tokens:
        return data
    at = rng.randrange(len(tokens))
    tokens[at] = rng.choice([rng.choice(tokens), rng.choice(HUGE), rng.choice(ODD), rng.randbytes(3)])
    return b"".join(tokens) + data[100_000:]


def _lines(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Lines in another order, or one of them again and again."""
    lines = data.split(b"\n")
    if rng.random() < 0.5:
        rng.shuffle(lines)
    else:
        lines.extend([rng.choice(lines)] * rng.choice([1, 20, 2000 if len(data) < 10_000 else 2]))
    return b"\n".join(lines)


def _json(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Of JSON, or of one of its lines, a value of another kind; of anything else a token."""
    lines = [data] if data[:1] == b"{" and b"\n{" not in data else data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at])
        lines[at] = json.dumps(_other(value, rng)).encode()
    except (ValueError, RecursionError):
        return _token(data, rng, ())
    return b"\n".join(lines)


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        changed = value.copy()
        if rng.random() < 0.15:
            del changed[key]
        else:
            changed[key] = _other(value[key], rng)
        return changed
    return rng.choice(VALUES)


_KINDS: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    *(_flip, _cut, _truncate, _double, _splice, _odd, _long, _token, _token, _lines, _json, _json, _json),
)
