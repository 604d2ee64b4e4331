"""Stop: end the training politely, keep the host."""

from __future__ import annotations

from gpuctl.core.host_state import HostState
from gpuctl.remote.training import stop_training
from gpuctl.workflows.each_host import Outcome, each_host
from gpuctl.workflows.follow import note_state
from gpuctl.workflows.hosts import RunHandle, hosts_known, open_host

GRACE_S = 110
"""Under the two minutes that a spot reclaim gives: what cannot save in that time would not have saved then either."""


def stop(run: RunHandle, *, grace_s: float = GRACE_S) -> list[Outcome[HostState]]:
    """C-c first, then SIGTERM, then SIGKILL, on all hosts at once; each one's state afterwards.

    Raises HostError kinds where no host could be stopped.
    """

    def one(host_run: RunHandle) -> HostState:
        with open_host(host_run) as host:
            state = stop_training(host, grace_s=grace_s)
        note_state(host_run, state)
        return state

    return each_host(hosts_known(run), one)
