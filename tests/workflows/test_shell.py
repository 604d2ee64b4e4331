"""Plain `ssh` beside gpuctl: which options leave a shell to be opened, and the line that makes runs known to it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gpuctl.state.paths import Paths
from gpuctl.workflows.shell import include_line, opens_shell


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


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on PATH")
@pytest.mark.parametrize("name", ["plain", "a b", "100%d", "run[1]", "a*b?", 'say "so"', "${HOME}", "back\\slash", "é"])
def test_ssh_finds_the_runs_by_the_line(tmp_path: Path, name: str) -> None:
    """Whatever the folder is called that they lie in."""
    paths = Paths(state=tmp_path / name, cache=tmp_path)
    (paths.runs / "mine").mkdir(parents=True)
    (paths.runs / "mine/ssh_config").write_text("Host mine\n  HostName 192.0.2.7\n")
    (tmp_path / "config").write_text(include_line(paths))
    asked = ["ssh", "-G", "-F", str(tmp_path / "config"), "mine"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "hostname 192.0.2.7" in said.splitlines()
