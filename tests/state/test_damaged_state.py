"""What a laptop keeps of a run may be damaged: nothing is taken from that to be known."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuctl.state.runs import RunFolder

DAMAGED = ["", "nul", "[]", '{"started": 0}', '{"started": false, "asked_at": "x"}', '{"made": [1]}', None]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of a run that was launched from here."""
    folder = RunFolder(tmp_path / "toy")
    folder.write_file("run.json", "{}")
    return folder


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_run_whose_progress_is_lost_may_have_trained(folder: RunFolder, damage: str | None) -> None:
    """Else `down` would remove its host without asking for outputs; that holds when more is noted afterwards."""
    folder.note(started=False)
    assert not folder.may_have_started()
    if damage is None:
        (folder.path / "progress.json").unlink()
    else:
        (folder.path / "progress.json").write_text(damage)
    assert folder.may_have_started() and folder.progress().asked_at == 0
    folder.note(destination="home")
    assert folder.may_have_started() and folder.progress().destination == "home"
