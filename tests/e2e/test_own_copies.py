"""The packaged jobs seen one by one, and made into folders of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e_tool import Gpuctl, Inside, the_error

JOBS = sorted(path.parent.name for path in Path(__file__).parents[2].glob("jobs/*/job.toml"))


@pytest.fixture
def inside(shared: Gpuctl) -> Inside:
    """The command line, within this process."""
    return Inside(shared.home, shared.folder, shared.environment)


@pytest.mark.parametrize("jobs", [JOBS[::4], pytest.param(JOBS, marks=pytest.mark.prove)], ids=len)
def test_every_copy_would_be_launched_as_it_is(inside: Inside, jobs: list[str]) -> None:
    """The plan of a copy is the packaged job's, under its own name: command, what is installed, every module of it."""
    for job in jobs:
        folder = f"my-{job}-{len(jobs)}"
        made = inside.json("jobs", job, "--copy", folder)
        assert (made["job"], made["folder"]) == (job, folder) and "job.toml" in made["files"]
        theirs, own = (inside.json("launch", name, "--dry-run") for name in (job, f"./{folder}"))
        same = ("command", "requirements", "outputs", "checkpoints")
        assert {key: own["workload"][key] for key in same} == {key: theirs["workload"][key] for key in same}
        assert own["job"] == folder and own["workload"]["uploads"] == [
            {"source": str(inside.folder / folder), "name": "."}
        ]
        packaged = inside.json("jobs", job)
        without = {file["path"] for file in packaged["files"] if not file["path"].endswith("job.toml")}
        assert {*without, "job.toml"} == set(made["files"])
        refused = the_error(inside("launch", f"./{folder}", "--dry-run", "--", "--preset", "smok", code=2))
        assert "no preset 'smok'; did you mean smoke?" in refused


def test_a_copy_trains_on_this_machine(shared: Gpuctl) -> None:
    """`gpuctl local ./DIR` runs the copy, not what it was copied from."""
    shared("jobs", "from_scratch", "--copy", "mine")
    train = shared.folder / "mine/jobs/from_scratch/train.py"
    train.write_text(train.read_text().replace('print("x y   NAND', 'print("mine   NAND'))
    words = ("--preset", "smoke", "--passes", "11", "--epochs", "2")
    assert "mine   NAND" in shared("local", "./mine", "--outputs", "out", "--", *words).out
    assert "30 neurons, all by hand" in (shared.folder / "out/report.txt").read_text()
    assert (shared.folder / "out/checkpoint.npz").exists() and (shared.folder / "out/metrics.jsonl").exists()


def test_a_copy_replaces_nothing(inside: Inside) -> None:
    """A folder that holds anything, or a file, is refused and stays as it is; an empty folder is taken."""
    (inside.folder / "full").mkdir()
    (inside.folder / "full/train.py").write_text("mine")
    (inside.folder / "empty").mkdir()
    assert "full already exists and is not empty" in the_error(inside("jobs", "gan", "--copy", "full", code=2))
    assert "train.py is a file" in the_error(inside("jobs", "gan", "--copy", "full/train.py", code=2))
    assert [path.name for path in (inside.folder / "full").iterdir()] == ["train.py"]
    told = inside("jobs", "gan", "--copy", "empty").out
    assert told.splitlines()[-1].strip() == "gpuctl launch ./empty"


def test_a_job_is_told_whole(inside: Inside) -> None:
    """Command, presets, what it installs, options with their defaults, files: for a person, and in JSON."""
    told = inside("jobs", "char_rnn").out
    for words in ("python -m jobs.char_rnn.train", "small-text", "torch>=2.9", "--hidden", "smoke 64", "--max-seconds"):
        assert words in told
    row = inside.json("jobs", "char-rnn")
    assert list(row)[:4] == ["name", "summary", "command", "presets"]
    assert {"option": "--embedding", "help": "size of a character's embedding"}.items() <= next(
        option for option in row["options"] if option["option"] == "--embedding"
    ).items()
    sizes = {file["path"]: file["bytes"] for file in row["files"]}
    assert sizes["jobs/char_rnn/plays/tragedies.txt.gz"] > 100_000
    assert max(sizes.values()) < 2**20
    for words, code, why in (
        (("char_rn",), 6, "did you mean char_rnn?"),
        (("../jobs",), 6, "no packaged job is called '../jobs'"),
        (("--copy", "x"), 2, "--copy needs the name of a job"),
    ):
        assert why in the_error(inside("jobs", *words, code=code))
    assert json.loads(inside("jobs", "--json").out)["jobs"][1]["name"] == "char_rnn"
