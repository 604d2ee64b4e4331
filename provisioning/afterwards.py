"""What becomes of the host once training has ended: it waits for a pull, or it goes by itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Optional

from provisioning.lease import power_off_by
from provisioning.outputs import left_nothing
from provisioning.paths import Paths, write_small

FAILED_EARLY_S = 600.0
"""A run that failed within this time and left no outputs holds nothing that a host has to wait for."""


def idle_limit(spec: Mapping[str, Any]) -> Optional[float]:
    """The request's `idle_s`; None where the host is to stay."""
    idle_s = spec.get("idle_s")
    return float(idle_s) if isinstance(idle_s, (int, float)) else None


def before_training(paths: Paths, spec: Mapping[str, Any]) -> None:
    """From here on only the deadline ends the host, and with `discard` its supervisor's end. Raises OSError."""
    paths.power_off_at.unlink(missing_ok=True)
    paths.power_off_if_alone.unlink(missing_ok=True)
    idle_s = idle_limit(spec)
    if idle_s is not None and spec.get("discard") is True:
        write_small(paths.power_off_if_alone, f"{int(idle_s)}\n")


def after_training(paths: Paths, spec: Mapping[str, Any], *, state: str, took_s: float) -> None:
    """Set when the host powers off where it waits for no pull: it may drop its outputs, or has none. Raises OSError."""
    idle_s = idle_limit(spec)
    if idle_s is not None and (spec.get("discard") is True or _left_nothing(paths, state, took_s)):
        power_off_by(paths, time.time() + idle_s)
    paths.power_off_if_alone.unlink(missing_ok=True)


def _left_nothing(paths: Paths, state: str, took_s: float) -> bool:
    if state != "failed" or took_s >= FAILED_EARLY_S:
        return False
    with suppress(Exception):  # what cannot be listed may be there
        return left_nothing(paths)
    return False
