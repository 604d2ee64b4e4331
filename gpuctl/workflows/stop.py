"""Stop: end the training politely, keep the host."""

from __future__ import annotations

from gpuctl.core.host_state import HostState
from gpuctl.remote.training import stop_training
from gpuctl.workflows.follow import note_state
from gpuctl.workflows.hosts import RunHandle, open_host

GRACE_S = 110
"""Under the two minutes that a spot reclaim gives: what cannot save in that time would not have saved then either."""


def stop(run: RunHandle, *, grace_s: float = GRACE_S) -> HostState:
    """C-c first, then SIGTERM, then SIGKILL; the training's state afterwards."""
    with open_host(run) as host:
        state = stop_training(host, grace_s=grace_s)
    note_state(run.folder, state)
    return state
