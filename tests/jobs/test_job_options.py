"""What gpuctl tells of a job's options without importing it is what the job's own parser takes."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from gpuctl.core.errors import UsageError
from gpuctl.workflows.job_options import check_words, options_of
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
