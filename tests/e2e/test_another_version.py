"""Runs that another version of gpuctl launched: an earlier one's are taken over, a later one's are left as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_tool import Gpuctl, in_account, the_error

from tests.jobs.conftest import ROOT

FIRST_SCHEMA = "e95f867"
"""The last commit whose records had schema 1; its embedded cloud was called `local`."""


def test_a_run_of_a_later_version_is_one_line_and_can_be_taken_down(
    gpuctl: Gpuctl, launched: Callable[..., str]
) -> None:
    """Where the run is, and how its host is reached, every version knows: its outputs come home before it goes."""
    run = launched(name="later", steps=3)
    record = gpuctl.home / "state/runs" / run / "run.json"
    changed = {**json.loads(record.read_text()), "schema": 999, "gpuctl": "9.9.9", "plan": {"of": "the future"}}
    record.write_text(json.dumps(changed))
    listed = gpuctl("ls")
    (line,) = listed.err.splitlines()
    assert line.startswith(f"run {run} was left alone: a newer gpuctl launched it (9.9.9; this is ")
    assert f"{run}  " in listed.out
    again = the_error(gpuctl("launch", "project", "--name", run, "-y", "--", "python", "train.py", code=2))
    assert f"the name {run} belongs to a run that a newer gpuctl launched" in again
    assert json.loads(record.read_text()) == changed
    down = gpuctl("down", run, "-y")
    assert "nothing is left" in down.out and in_account(gpuctl.ec2()) == {}
    assert (gpuctl.folder / run / "gpuctl/log").exists()
    assert json.loads(record.read_text()) == changed


@pytest.mark.prove
def test_a_run_of_the_first_schema_is_listed_pulled_and_taken_down(
    own_cloud: Gpuctl, project: Path, tmp_path: Path
) -> None:
    """Launched by that very code, on its own embedded cloud, which still runs; nothing of it is lost or left."""
    packed = subprocess.run(["git", "archive", FIRST_SCHEMA], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"this checkout has no {FIRST_SCHEMA}")
    code = tmp_path / "old"
    code.mkdir()
    subprocess.run(["tar", "-x", "-C", str(code)], input=packed.stdout, check=True)
    earlier = {**own_cloud.environment, "GPUCTL_CLOUD": "local", "PYTHONPATH": str(code)}
    words = ["launch", str(project), "--name", "old", "-d", "-y", "--", "python", "train.py", "20"]
    line = [sys.executable, "-c", "from gpuctl.cli.main import main; main()", *words]
    subprocess.run(line, env=earlier, cwd=own_cloud.folder, check=True, capture_output=True, timeout=240)
    record = json.loads((own_cloud.home / "state/runs/old/run.json").read_text())
    assert record["schema"] == 1 and record["plan"]["cloud"] == "local"

    *_, told = own_cloud("cloud", "start").out.splitlines()
    assert told.startswith("an older gpuctl started it, and any user of this machine can use it: `gpuctl cloud stop`")
    assert "train loss" in own_cloud("tail", "old").out
    (row,) = own_cloud.json("ls")["runs"]
    assert (row["run"], row["cloud"], row["state"]) == ("old", "embedded", "succeeded")
    pulled = own_cloud.json("pull", "old", "home")
    assert pulled["complete"] and "outputs/checkpoint.pt" in pulled["files"]
    assert own_cloud.json("down", "old", "-y")["left"] == []
    assert in_account(own_cloud.ec2()) == {}
