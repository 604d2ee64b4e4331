"""What was stored by another version of gpuctl: read where it can be, left alone where it cannot."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gpuctl.core.codec import parse
from gpuctl.core.errors import GpuctlError
from gpuctl.state.records import SCHEMA, Made, RunRecord
from gpuctl.state.runs import RunFolder
from tests.plans import a_plan, an_attempt

RECORDS = Path(__file__).parent / "records"
SCHEMAS = sorted(path.name for path in RECORDS.iterdir() if path.is_dir())


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """An empty one."""
    return RunFolder(tmp_path / "recorded-1")


def changed(folder: RunFolder, change: Any) -> None:
    """Change the stored record as another version might have written it."""
    data = parse((folder.path / "run.json").read_bytes())
    change(data)
    folder.write_file("run.json", json.dumps(data))


def test_there_is_a_record_of_every_schema_that_was_released() -> None:
    """Whoever raises the schema records what the one before looked like."""
    assert [int(name) for name in SCHEMAS] == list(range(1, SCHEMA))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_record_of_every_schema_is_read_whole(folder: RunFolder, schema: str) -> None:
    """Everything that was asked and seen is there, whichever version wrote it."""
    shutil.copytree(RECORDS / schema, folder.path)
    record = folder.read()
    plan, attempt = record.plan, record.current
    assert (plan.cloud, folder.header().cloud) == ("embedded", "embedded")
    assert (plan.run, plan.job, plan.owner) == ("recorded-1", "tiny", "123456789012:user/gpuctl")
    assert (plan.workload.command, plan.workload.outputs) == (("python", "train.py"), ("outputs",))
    assert (plan.workload.environment_names, plan.workload.checkpoints[0]) == (("FOO",), "*.pt")
    assert (plan.lease.then_s, plan.lease.discard, plan.lease.ends.year) == (2400, False, 2026)
    assert (attempt.region, attempt.market, attempt.image.login_user) == ("us-east-1", "spot", "ubuntu")
    assert attempt.image.volume_gib == 100 and len(attempt.pools) == 11
    assert attempt.best.price_usd_per_hour == Decimal("0.283933") and attempt.best.subnet_id.startswith("subnet-")
    assert record.fleet_request is not None and record.fleet_request["Type"] == "instant"
    progress = folder.progress()
    assert (progress.ended, progress.exit_code, progress.home, progress.down) == ("succeeded", 0, True, False)
    assert {(one.kind, one.region) for one in progress.made} == {
        ("security-group", "us-east-1"), ("launch-template", "us-east-1"), ("instance", "us-east-1"),
    }  # fmt: skip
    seen = folder.host(0).seen()
    assert seen is not None and seen.state == "succeeded"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_record_that_was_read_is_written_as_this_version_has_it(folder: RunFolder, schema: str) -> None:
    """Read again, it is the same."""
    shutil.copytree(RECORDS / schema, folder.path)
    record = folder.read()
    folder.write(record)
    assert folder.read() == record
    assert parse((folder.path / "run.json").read_bytes())["schema"] == SCHEMA


def test_three_fields_more_and_two_fewer_are_read(folder: RunFolder) -> None:
    """Within a schema a field may come, with a default for who does not have it, or go."""
    folder.write(RunRecord(a_plan()))

    def change(data: dict[str, Any]) -> None:
        data["new"] = data["plan"]["newer"] = data["plan"]["attempts"][0]["newest"] = {"any": ["thing"]}
        del data["plan"]["workload"]["pattern"], data["plan"]["lease"]["discard"]

    changed(folder, change)
    assert folder.read() == RunRecord(a_plan())


def test_a_newer_schema_is_one_line_and_leaves_the_run_as_it_is(folder: RunFolder) -> None:
    """It says which gpuctl wrote it and what to do; where the run is can be read all the same."""
    folder.write(RunRecord(a_plan()))

    def change(data: dict[str, Any]) -> None:
        data.update(schema=999, gpuctl="9.9.9", plan={"entirely": "different"})

    changed(folder, change)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(GpuctlError, match=r"was left alone: a newer gpuctl launched it \(9\.9\.9") as error:
        folder.read()
    assert "\n" not in str(error.value) and "gpuctl down recorded-1" in str(error.value)
    assert (folder.header().cloud, folder.header().region) == ("aws", "us-east-1")
    folder.forget_keys()
    assert before == {path.name: path.read_bytes() for path in folder.path.iterdir()}


def test_a_schema_that_never_was_is_damage(folder: RunFolder) -> None:
    """What names no schema, or one below the first, is not taken for one."""
    folder.write(RunRecord(a_plan()))
    for schema in (0, -1, "1", None):
        changed(folder, lambda data, schema=schema: data.update(schema=schema))
        with pytest.raises(GpuctlError, match="cannot be read"):
            folder.read()


def test_what_was_begun_is_every_attempt_so_far(folder: RunFolder) -> None:
    """An undo has to look in each of their regions; the run's header names that of its host."""
    plan = a_plan(an_attempt(), an_attempt(number=2, region="eu-west-1"), an_attempt(number=3, region="us-west-2"))
    record = RunRecord(plan, attempt=2)
    folder.write(record)
    assert [attempt.region for attempt in folder.read().begun] == ["us-east-1", "eu-west-1"]
    assert folder.header().region == "eu-west-1"
    assert replace(record, attempt=1).begun == (plan.attempts[0],)


def test_things_made_in_two_regions_are_told_apart(folder: RunFolder) -> None:
    """An id is looked for only where it was made."""
    made = (Made("instance", "i-1", "us-east-1"), Made("instance", "i-2", "eu-west-1"))
    folder.note(made=made)
    assert folder.progress().made == made


@pytest.mark.parametrize("change", [{"attempt": 2}, {"attempt": 0}])
def test_an_attempt_that_the_plan_does_not_have_is_damage(folder: RunFolder, change: dict[str, int]) -> None:
    """Found when it is read, not by whoever asks for it later."""
    folder.write(RunRecord(a_plan()))
    changed(folder, lambda data: data.update(change))
    with pytest.raises(GpuctlError, match="cannot be read"):
        folder.read()


def test_what_a_newer_version_has_seen_stays(folder: RunFolder) -> None:
    """Its fields are kept where this version can read the rest, and all of it where it cannot."""
    folder.write(RunRecord(a_plan()))
    folder.note(started=True)
    path = folder.path / "progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "newer": [1]}))
    folder.note(home=True)
    assert json.loads(path.read_text())["newer"] == [1] and folder.progress().home
    changed(folder, lambda data: data.update(schema=999))
    path.write_text('{"started": "since noon"}')
    folder.note(home=True)
    assert path.read_text() == '{"started": "since noon"}'
