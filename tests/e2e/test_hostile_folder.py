"""gpuctl in a folder whose modules have the names of Python's own: none of them is run on the laptop."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_tool import Gpuctl

NAMES = ("argparse", "gpuctl", "json", "logging", "numpy", "pip", "queue", "runpy", "selectors", "subprocess", "typing")


@pytest.fixture
def hostile(own_cloud: Gpuctl) -> Path:
    """The folder that gpuctl is called in: whichever of its modules is imported leaves a file."""
    for name in NAMES:
        (own_cloud.folder / f"{name}.py").write_text(
            "import os\nopen(os.path.dirname(__file__) + '/ran', 'a').close()\n"
        )
    return own_cloud.folder


def test_no_module_of_the_folder_is_imported_by_the_cloud(own_cloud: Gpuctl, hostile: Path) -> None:
    """Neither when it is started, nor by a host that it boots, nor when it is asked or stopped."""
    project = hostile / "project"
    project.mkdir()
    (project / "train.py").write_text("print('trained')\n")
    own_cloud("cloud", "start")
    own_cloud("launch", str(project), "--name", "toy", "-y", "--", "python", "train.py")
    own_cloud("cloud", "status")
    own_cloud("down", "toy", "-y")
    own_cloud("cloud", "stop")
    assert not (hostile / "ran").exists()


def test_no_module_of_the_folder_is_imported_by_a_job_that_runs_here(own_cloud: Gpuctl, hostile: Path) -> None:
    """A packaged job is its own code alone, and its outputs are in the folder all the same."""
    words = ("local", "from_scratch", "--outputs", "out", "--", "--preset", "smoke", "--epochs", "2", "--passes", "11")
    own_cloud(*words)
    assert not (hostile / "ran").exists()
    assert any((hostile / "out").iterdir())
