"""What gpuctl tells of a job's options without importing it is what the job's own parser takes."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from gpuctl.core.errors import UsageError
from gpuctl.workflows.job_options import check_words, option_names, options_of
from gpuctl.workflows.jobs import LoadedJob, load_job, packaged_jobs
from jobs.common.args import parse

JOBS = packaged_jobs()


@pytest.mark.parametrize("loaded", JOBS, ids=lambda loaded: loaded.folder.name)
def test_options_are_those_of_the_program(loaded: LoadedJob, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of the program's help and no other, its help, its default in every preset; and the presets."""
    program = importlib.import_module(f"jobs.{loaded.folder.name}.train")
    told = {option.name: option for option in options_of(loaded)}
    with pytest.raises(SystemExit):
        parse(program.PRESETS, argv=["--help"])
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out.split("options:", 1)[1]))
    of_torch = set() if {"--device", "--threads"} <= set(told) else {"--device", "--threads"}  # torch is loaded here
    assert set(told) == flags - of_torch - {"--help"}
    settings = next(iter(program.PRESETS.values()))
    for field in dataclasses.fields(settings):
        option = told["--" + field.name.replace("_", "-")]
        assert option.help == field.metadata["help"]
        assert option.defaults == {name: getattr(preset, field.name) for name, preset in program.PRESETS.items()}
    assert set(loaded.job.presets) == set(program.PRESETS)


def test_from_scratch_has_no_option_for_a_device() -> None:
    """What it does not compute with, it does not offer."""
    names = {loaded.folder.name: {option.name for option in options_of(loaded)} for loaded in JOBS}
    assert not {"--device", "--threads"} & names["from_scratch"]
    assert {"--device", "--threads", "--seed"} <= names["gan"]


def test_words_that_the_program_would_refuse_are_refused_here() -> None:
    """A preset or an option that is none, with the near one; what is right, shortened or another command is let be."""
    char_rnn = next(loaded for loaded in JOBS if loaded.folder.name == "char_rnn")
    for words in (
        (),
        ("--preset", "small-text", "--hidden=3"),
        ("--max-sec", "3", "--prime", "-x"),
        ("--help",),
        ("python", "other.py", "--preset", "mine", "--frob"),
    ):
        check_words(char_rnn, words)
    for words, told in (
        (("--preset", "smok"), "char_rnn has no preset 'smok'; did you mean smoke?"),
        (("--preset=enormous",), "no preset 'enormous'; choose from smoke, laptop, small-text, gpu"),
        (("--steps", "3", "--preset"), "char_rnn has no preset ''"),
        (("--hiden", "3"), "char_rnn has no option --hiden; did you mean --hidden?"),
        (("--frobnicate=3",), "`gpuctl jobs char_rnn` lists them"),
    ):
        with pytest.raises(UsageError, match=re.escape(told)):
            check_words(char_rnn, words)


def test_a_program_that_is_made_otherwise_is_let_be(tmp_path: Path) -> None:
    """Nothing is known of its options, whatever its source is: only its presets are, where job.toml has them."""
    (tmp_path / "job.toml").write_text('command = "python -m train"\npresets = ["small"]\n')
    for source in (
        None,
        "import argparse\n",
        "class Settings(:\n",
        "\0",
        "class S:\n    x: int = option(f(), 'what')\n",
    ):
        if source is not None:
            (tmp_path / "train.py").write_text(source)
        loaded = load_job(tmp_path)
        check_words(loaded, ("--x", "3", "--preset", "small"))
        with pytest.raises(UsageError, match="no preset 'smal'; did you mean small"):
            check_words(loaded, ("--preset", "smal"))


PROGRAM = "from common.args import parse\nclass Settings:\n    epochs: int = option({}, 'how many')\n"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody's project that is made as the packaged jobs are."""
    folder = tmp_path / "project"
    (folder / "common").mkdir(parents=True)
    (folder / "job.toml").write_text('command = ["python", "-m", "train"]\n')
    (folder / "train.py").write_text(PROGRAM.format(3))
    (folder / "common/args.py").write_text("def parse():\n    add('--seed', help='where chance begins')\n")
    assert option_names(load_job(folder)) == ["--epochs", "--seed"]
    return folder


@pytest.mark.parametrize("file", ["train.py", "common/args.py"])
def test_of_a_program_nothing_is_read_but_small_files_of_its_project(foreign: Path, tmp_path: Path, file: str) -> None:
    """A link out of it may lead to anything: /dev/zero, a pipe."""
    source = (foreign / file).read_text()
    (tmp_path / "outside.py").write_text(source)
    (foreign / file).unlink()
    (foreign / file).symlink_to(tmp_path / "outside.py")
    assert option_names(load_job(foreign)) == []
    (foreign / file).unlink()
    (foreign / file).write_text(source + "#" * 1024**2)
    assert option_names(load_job(foreign)) == []


@pytest.mark.parametrize("module", ["/", "..", ".", "/dev/zero", "a" * 5_000])
def test_a_module_may_be_called_anything(foreign: Path, module: str) -> None:
    """It is no module then, and the host's Python says so."""
    (foreign / "job.toml").write_text(f'command = "python -m {module}"\n')
    assert option_names(load_job(foreign)) == []


def test_a_source_that_is_made_to_break_a_parser_is_no_error(foreign: Path) -> None:
    """Whether Python's parser gives up on it, or the reading of a value in it does."""
    for source in (f"x = {'-' * 100_000}1", f"x = {'(' * 300}", f"x = {'1+' * 20_000}1", "x = '\\d'\n"):
        (foreign / "train.py").write_text(source)
        assert option_names(load_job(foreign)) == []
    (foreign / "common/args.py").write_text("def parse():\n    add()\n    add({[]: 1})\n    add('--seed', help=0x1)\n")
    for default in ("{[]: 1}", "+" * 150 + "1", "1" * 5_000, f"0x{'1' * 5_000}"):
        (foreign / "train.py").write_text(f"{PROGRAM.format(default)}PRESETS = {{[]: Settings()}}\n")
        loaded = load_job(foreign)
        assert [option.name for option in options_of(loaded)] in ([], ["--epochs", "--seed"])
        check_words(loaded, ("--epochs", "3"))
