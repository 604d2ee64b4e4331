"""Which of ssh's options leave a shell to be opened."""

from __future__ import annotations

import pytest

from gpuctl.workflows.shell import opens_shell


@pytest.mark.parametrize(
    ("options", "opens"),
    [
        ("", True),
        ("-L 6006:localhost:6006", True),
        ("-vA -o ServerAliveInterval=5", True),
        ("-oBatchMode=no", True),
        ("-iN", True),
        ("-N -L 6006:localhost:6006", False),
        ("-fNL 6006:localhost:6006", False),
        ("-W localhost:22", False),
        ("-O check", False),
        ("-o RemoteCommand=top", False),
        ("-osessiontype=none", False),
        ("-G", False),
    ],
)
def test_a_forward_alone_opens_no_shell(options: str, opens: bool) -> None:
    """`-N`, `-W` and the like; a letter that is an option's value is none."""
    assert opens_shell(options.split()) == opens
