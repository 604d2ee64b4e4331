"""How a training's end is told, and what of a host's word is believed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.endings import begun, ending, failure
from gpuctl.core.host_state import Gpu, HostState, parse_host_state

MEMORY = "it was killed (SIGKILL), most likely because the host's memory was full"
KILLED = "its supervisor was killed (out of memory?)"


@pytest.mark.parametrize(
    ("said", "told", "failed"),
    [
        ({"state": "succeeded", "exit_code": 0}, "succeeded (exit code 0)", None),
        ({"state": "failed", "exit_code": 1, "why": None}, "failed (exit code 1)", "with exit code 1"),
        ({"state": "failed", "exit_code": 126, "why": "no"}, "failed (exit code 126: no)", "with exit code 126: no"),
        ({"state": "failed", "exit_code": None, "why": KILLED}, f"failed ({KILLED})", f"r failed: {KILLED}"),
        ({"state": "failed", "exit_code": None}, "failed", "r failed"),
        ({"state": "failed", "exit_code": 137}, f"failed (exit code 137: {MEMORY})", f"with exit code 137: {MEMORY}"),
        ({"state": "failed", "exit_code": 137, "why": "no"}, "failed (exit code 137: no)", "with exit code 137: no"),
        ({"state": "stopped", "exit_code": 137}, "stopped (exit code 137)", None),
        ({"state": "succeeded", "exit_code": 0, "why": "no"}, "succeeded (exit code 0: no)", None),
        ({"state": "failed", "exit_code": True, "why": "\x1b[2Ja\nb"}, "failed (a␊b)", "r failed: a␊b"),
    ],
)
def test_an_end_is_told_with_what_is_known_of_it(said: dict[str, Any], told: str, failed: str | None) -> None:
    """An exit code, a reason, both or neither; what the host says reaches no terminal raw."""
    state = parse_host_state(said)
    assert ending(state) == told
    if failed is not None:
        assert failure("r", state).endswith(failed)


ANYTHING = st.none() | st.booleans() | st.text() | st.integers() | st.floats() | st.lists(st.none())
FIELDS = ["state", "exit_code", "why", "started", "ended", "power_off_at", "gpus"]


@given(ANYTHING | st.dictionaries(st.sampled_from(FIELDS), ANYTHING | st.lists(st.dictionaries(st.text(), ANYTHING))))
def test_nothing_that_a_host_says_gives_no_line(said: Any) -> None:
    """Whatever comes, there are words for it, and `None` is not one of them for an exit code."""
    state = parse_host_state(said)
    assert "exit code None" not in ending(state) + failure("r", state)
    assert "\n" not in ending(state) + begun(state)
    assert state.ran_s is None or isinstance(state.ran_s, float)


def test_a_host_that_says_nothing_of_its_training_is_not_taken_for_one_without() -> None:
    """`none` is a word of the host's own: then a training may be started there."""
    assert parse_host_state({"state": "none"}) == HostState("none")
    for said in ({}, None, [], {"state": "idle"}, {"state": ["none"]}):
        assert parse_host_state(said).training == "unknown"


@pytest.mark.parametrize("said", [None, "soon", True, -1, 0, 10**12, 10**400, 1e300, [1], float("nan")])
def test_what_is_no_time_is_no_end_of_a_host(said: Any) -> None:
    """A host may tell anything of when it powers itself off, and of why; only what is one is taken."""
    assert parse_host_state({"power_off_at": said}).power_off_at is None
    off = parse_host_state({"power_off_at": 1_700_000_000.5}).power_off_at
    assert off == datetime.fromtimestamp(1_700_000_000.5, timezone.utc)
    whys = [parse_host_state({"why": why}).why for why in ("", 3, None, "\x1b[2Ja")]
    assert whys == [None, None, None, "a"]


def test_gpus_are_taken_as_far_as_they_are_some() -> None:
    """A number that is none is not known; a list without end is cut."""
    gpus = [{"name": "L4\x1b[2J", "utilization_percent": 93, "memory_used_mib": True}, "x", None]
    assert parse_host_state({"gpus": gpus}).gpus == (Gpu("L4", 93),)
    assert len(parse_host_state({"gpus": [{}] * 10_000}).gpus) == 64


def test_no_escape_code_reaches_a_terminal() -> None:
    """What a host calls its state is shown as characters."""
    state = parse_host_state({"state": "failed\x1b]0;title\x07\x9b2J", "why": "\x1b[2J"})
    assert not {"\x1b", "\x07", "\x9b"} & set(begun(state) + ending(state) + failure("r", state))
