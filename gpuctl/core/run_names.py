"""What a run may be called, and what it is called where nobody says: it is part of tags, paths and a host's alias."""

from __future__ import annotations

import re
import secrets

from gpuctl.core.errors import UsageError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def is_run_name(name: str) -> bool:
    """Whether a run may be called so: lower-case letters, digits and `-`, at most 63, as in a host's name."""
    return _NAME.fullmatch(name) is not None


def check_run_name(name: str) -> str:
    """A name that a person chose. Raises UsageError."""
    if not is_run_name(name):
        raise UsageError(f"--name {name!r} is not a valid name", "use a-z, 0-9 and -, at most 63 characters")
    return name


def new_run_name(job: str) -> str:
    """A run's id: the job's name and four letters that are hard to confuse (`char-rnn-k3f9`)."""
    stem = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-")[:40].strip("-") or "run"
    return f"{stem}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"
