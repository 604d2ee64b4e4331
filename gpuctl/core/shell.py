"""The one place that makes shell words: no text becomes a command in any other way."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Home:
    """A path below the home folder of whoever runs the command (`Home("gpuctl/host.pyz")` is `~/gpuctl/host.pyz`)."""

    path: str


def command(*words: str | Home) -> str:
    """The line that a POSIX shell splits into exactly these words; only a `Home`'s tilde is left for it to expand.

    Raises ValueError on a NUL, which no word can hold.
    """
    if any("\0" in (word.path if isinstance(word, Home) else word) for word in words):
        raise ValueError("a shell word cannot hold a NUL")
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str | Home) -> str:
    return "~/" + shlex.quote(word.path) if isinstance(word, Home) else shlex.quote(word)
