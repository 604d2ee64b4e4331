"""Stop: end the training politely, keep the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuctl.workflows.follow import note_state
from gpuctl.workflows.hosts import RunHandle, open_host

GRACE_S = 110
"""Under the two minutes that a spot reclaim gives: what cannot save in that time would not have saved then either."""


def stop(run: RunHandle, *, grace_s: float = GRACE_S) -> Mapping[str, Any]:
    """C-c first, then SIGTERM, then SIGKILL; the training's state afterwards."""
    with open_host(run) as host:
        state = host.call("stop", {"grace_s": grace_s}, timeout_s=grace_s + 30)
    note_state(run.folder, state)
    return state
