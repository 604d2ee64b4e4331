"""How a training ended, in words: what its host tells of that, which may be no exit code, or a reason besides one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from gpuctl.core.text import safe

_LONGEST = 400
_FAR = 10_000_000_000
"""Seconds since the epoch: what a host tells beyond it is no time."""


def begun(state: Mapping[str, Any]) -> str:
    """What a run does just after its start: it may have ended by then."""
    said = state.get("state")
    return "is training" if said == "running" else f"has {safe(str(said))[:_LONGEST]} already"


def ending(state: Mapping[str, Any]) -> str:
    """The state with what is known of it: `succeeded (exit code 0)`, `failed (its host was restarted meanwhile)`."""
    known = _known(state)
    said = safe(str(state.get("state")))
    return f"{said} ({known})" if known else said


def failure(run: str, state: Mapping[str, Any]) -> str:
    """One line that says that the training of a run has failed, and why."""
    code, why = _exit_code(state), _why(state)
    if code is None:
        return f"the training of {run} failed{f': {why}' if why else ''}"
    return f"the training command of {run} failed with exit code {code}{f': {why}' if why else ''}"


def reason(state: Mapping[str, Any]) -> str | None:
    """What the host tells of why the training ended as it did, on one line; None where it tells nothing."""
    return _why(state) or None


def power_off_at(state: Mapping[str, Any]) -> datetime | None:
    """When the host will power itself off, as it tells itself; None where only its lease ends it."""
    at = state.get("power_off_at")
    if not isinstance(at, (int, float)) or isinstance(at, bool) or not 0 < at < _FAR:
        return None
    return datetime.fromtimestamp(at, timezone.utc)


def _known(state: Mapping[str, Any]) -> str:
    code, why = _exit_code(state), _why(state)
    told = ([f"exit code {code}"] if code is not None else []) + ([why] if why else [])
    return ": ".join(told)


def _exit_code(state: Mapping[str, Any]) -> int | None:
    code = state.get("exit_code")
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _why(state: Mapping[str, Any]) -> str:
    why = state.get("why")
    return safe(why)[:_LONGEST] if isinstance(why, str) else ""
