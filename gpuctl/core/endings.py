"""How a training stands, in words."""

from __future__ import annotations

from gpuctl.core.host_state import HostState


def begun(state: HostState) -> str:
    """What a run does just after its start: it may have ended by then."""
    return "has started" if state.training == "running" else f"has {state.training} already"


def ending(state: HostState) -> str:
    """The state with what is known of it: `succeeded (exit code 0)`, `failed (its host was restarted meanwhile)`."""
    code = None if state.exit_code is None else f"exit code {state.exit_code}"
    known = ": ".join(filter(None, (code, state.why)))
    return f"{state.training} ({known})" if known else state.training


def failure(run: str, state: HostState) -> str:
    """One line that says that the training of a run has failed, and why."""
    why = f": {state.why}" if state.why else ""
    if state.exit_code is None:
        return f"the training of {run} failed{why}"
    return f"the training command of {run} failed with exit code {state.exit_code}{why}"
