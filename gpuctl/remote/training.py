"""The training on a host: asked for, started, stopped. What the host answers is parsed here and nowhere above."""

from __future__ import annotations

from gpuctl.core.host_state import HostState, parse_host_state
from gpuctl.remote.host import Host

_STOPPED_WITHIN_S = 30
"""Seconds that the answer to a stop may take beyond the grace that the command gets."""


def training_state(host: Host, *, gpus: bool = True, timeout_s: float | None = None) -> HostState:
    """How the training stands. Without `gpus` the host does not ask `nvidia-smi`, which takes seconds."""
    return parse_host_state(host.call("state", {"gpus": gpus}, timeout_s=timeout_s))


def start_training(host: Host, *, alive_s: float = 0.0) -> HostState:
    """Start the training, unless it was started already; its state then, or once it has lived for `alive_s`."""
    return parse_host_state(host.call("start", {"alive_s": alive_s}).get("state"))


def stop_training(host: Host, *, grace_s: float) -> HostState:
    """SIGINT, then SIGTERM, then SIGKILL after `grace_s`; the state once it has ended."""
    return parse_host_state(host.call("stop", {"grace_s": grace_s}, timeout_s=grace_s + _STOPPED_WITHIN_S))
