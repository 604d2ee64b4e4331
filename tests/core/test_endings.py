"""How a training's end is told."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.endings import begun, ending, failure, power_off_at, reason

KILLED = "its supervisor was killed (out of memory?)"


@pytest.mark.parametrize(
    ("state", "said", "failed"),
    [
        ({"state": "succeeded", "exit_code": 0}, "succeeded (exit code 0)", None),
        ({"state": "failed", "exit_code": 1, "why": None}, "failed (exit code 1)", "with exit code 1"),
        ({"state": "failed", "exit_code": 126, "why": "no"}, "failed (exit code 126: no)", "with exit code 126: no"),
        ({"state": "failed", "exit_code": None, "why": KILLED}, f"failed ({KILLED})", f"r failed: {KILLED}"),
        ({"state": "failed", "exit_code": None}, "failed", "r failed"),
        ({"state": "failed", "exit_code": True, "why": "\x1b[2Ja\nb"}, "failed (a␊b)", "r failed: a␊b"),
    ],
)
def test_an_end_is_told_with_what_is_known_of_it(state: dict[str, Any], said: str, failed: str | None) -> None:
    """An exit code, a reason, both or neither; what the host says reaches no terminal raw."""
    assert ending(state) == said
    if failed is not None:
        assert failure("r", state).endswith(failed)


ANYTHING = st.none() | st.text() | st.integers() | st.lists(st.none())


@given(st.dictionaries(st.sampled_from(["state", "exit_code", "why"]), ANYTHING))
def test_nothing_that_a_host_says_gives_no_line(state: dict[str, Any]) -> None:
    """Whatever comes, there are words for it, and `None` is not one of them for an exit code."""
    assert "exit code None" not in ending(state) + failure("r", state)
    assert "\n" not in ending(state) + begun(state)


@pytest.mark.parametrize("said", [None, "soon", True, -1, 0, 10**12, 10**400, 1e300, [1]])
def test_what_is_no_time_is_no_end_of_a_host(said: Any) -> None:
    """A host may tell anything of when it powers itself off, and of why; only what is one is taken."""
    assert power_off_at({"power_off_at": said}) is None
    assert power_off_at({"power_off_at": 1_700_000_000.5}) == datetime.fromtimestamp(1_700_000_000.5, timezone.utc)
    assert (reason({"why": ""}), reason({"why": 3}), reason({}), reason({"why": "\x1b[2Ja"})) == (None, None, None, "a")


def test_no_escape_code_reaches_a_terminal() -> None:
    """What a host calls its state is shown as characters."""
    state = {"state": "failed\x1b]0;title\x07\x9b2J", "why": "\x1b[2J"}
    assert not {"\x1b", "\x07", "\x9b"} & set(begun(state) + ending(state) + failure("r", state))
