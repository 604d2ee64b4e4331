"""`gpuctl local`: a project runs here as it does on a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuctl.core.errors import GpuctlError
from gpuctl.workflows.local import local_command

SCRIPT = """
import json, os, sys
import helper
print(json.dumps([os.getcwd(), os.environ["GPUCTL_OUTPUTS"], "PYTHONPATH" in os.environ, open("data.txt").read()]))
"""


def test_a_project_runs_in_its_own_folder(tmp_path: Path) -> None:
    """Its script, its module and its data are found from wherever it is called, and outputs come to where that is."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(SCRIPT)
    (project / "helper.py").touch()
    (project / "data.txt").write_text("data")
    (project / "run.sh").write_text('#!/bin/sh\nexec "$@"\n')
    (project / "run.sh").chmod(0o755)
    gpuctl = Path(sys.executable).parent / "gpuctl"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words in (["python", "train.py"], ["python", "-m", "train"], ["./run.sh", sys.executable, "train.py"]):
        done = subprocess.run(
            [gpuctl, "local", "./project", "--", *words], cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        assert json.loads(done.stdout) == [str(project), str(tmp_path / "outputs"), False, "data"]


def test_a_package_that_is_named_must_be_here(tmp_path: Path) -> None:
    """Nothing is installed on this machine; what is missing is named with the line that installs it."""
    words = ["python", "x.py"]
    (tmp_path / "lib").mkdir()
    for here in ("pytest>=1", "./lib"):
        local_command(str(tmp_path), words, outputs=tmp_path / "o", environment=os.environ, requirement=[here])
    with pytest.raises(GpuctlError, match=r"packages .*: nothing-is-called-so; .* 'nothing-is-called-so>2'"):
        local_command(
            str(tmp_path), words, outputs=tmp_path / "o", environment={}, requirement=["nothing-is-called-so>2"]
        )
