"""Jobs as values: what a `job.toml` says, checked before anything else happens. No file is read here.

All of it is optional: `name`, `summary`, `command`, `requirements`, `requires-python`, `presets`, `include`,
`[outputs] paths, exclude, checkpoints`, `[metrics] pattern`, `[data]`. What is wrong is a JobError that names the key
and what was expected there.
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from gpuctl.core.errors import JobError, UsageError
from gpuctl.core.losses.formats import job_format
from gpuctl.core.python_version import is_specifier
from gpuctl.core.text import did_you_mean, safe, shorten

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

T = TypeVar("T")

CHECKPOINTS = ("*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.npz", "checkpoint-*/")
"""What counts as a checkpoint where the job does not say."""

_JOB_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?")
_PRESET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_SHELL_WORDS = frozenset({"&&", "||", "|", ";", ">", ">>", "<", "&", "2>&1"})
_ONLY_FOR_A_SHELL = frozenset({"&&", "||", ">>", "2>&1"})
"""Of those, what is never an argument of a program."""
_SHELL_BUILTINS = frozenset({"cd", "export", "source", ".", "set", "ulimit", "exec", "eval", "alias", "unset"})
_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a table"}
_KEYS = (
    "name",
    "summary",
    "command",
    "requirements",
    "requires-python",
    "presets",
    "include",
    "outputs",
    "metrics",
    "data",
)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_MOST_PARTS = 32
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DEEP_KEY = rf"(?:{_PART}[ \t]*\.[ \t]*){{{_MOST_PARTS}}}"
_MOST_TOLD = 300


@dataclass(frozen=True)
class Job:
    """One job. `outputs` is None where the job does not say what it leaves; `include` are folders beside its own.

    `outputs`, `exclude` and `checkpoints` are patterns as ignore files have them (docs/payload.md).
    """

    name: str
    summary: str = ""
    command: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    requirements_file: str | None = None
    requires_python: str | None = None
    presets: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = CHECKPOINTS
    pattern: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)


def job_name_ok(name: str) -> bool:
    """Whether a job may be called so: lower-case letters, digits, `-` and `_`, at most 40 of them."""
    return _JOB_NAME.fullmatch(name) is not None


def job_name(folder_name: str) -> str:
    """The name of a job that does not say its own, from its folder's."""
    name = re.sub(r"[^a-z0-9_]+", "-", folder_name.lower()).strip("-_")[:40].strip("-_")
    return name or "job"


def job_without_file(folder_name: str) -> Job:
    """A folder that has no `job.toml` is a job too."""
    return Job(name=job_name(folder_name))


def merge_command(job_command: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The command to run, given the words after `--`: words that begin with a dash are added to the job's own
    command, any other replace it. Raises JobError where there is none."""
    if words and not words[0].startswith("-"):
        _refuse_shell_words(words)
        return tuple(words)
    if not job_command:
        what = "no command to add them to" if words else "no command to run"
        raise JobError(
            f"there is {what}: the job has no command of its own",
            "give one after -- (`-- python train.py`), or set `command` in its job.toml",
        )
    return (*job_command, *words)


def _refuse_shell_words(words: Sequence[str]) -> None:
    """No shell reads the words after `--`: what only a shell understands would fail on a host that is paid for."""
    first, by_shell = words[0], "run it with a shell: `-- sh -c '…'`"
    if not first.strip():
        raise JobError("the command is empty", "name a program after -- (`-- python train.py`)")
    if _ASSIGNMENT.match(first):
        raise JobError(f"the command starts with {first!r}, which is not a program", f"use --env, or {by_shell}")
    if len(words) == 1 and len(first.split()) > 1 and not first.startswith(("/", "./", "../")):
        raise JobError(
            f"the command {first!r} is a single word, and no program has that name", f"drop the quotes, or {by_shell}"
        )
    for word in words:
        if word in _ONLY_FOR_A_SHELL or (word == first and word in _SHELL_BUILTINS):
            raise JobError(f"the command is not run by a shell, and only a shell understands {word!r}", by_shell)


def check_preset(job: Job, words: Sequence[str]) -> None:
    """Refuse a `--preset NAME` or `--preset=NAME` that the job does not have. Raises UsageError."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        name = following if word == "--preset" else word.removeprefix("--preset=")
        if job.presets and word.split("=")[0] == "--preset" and name not in job.presets:
            hint = did_you_mean(name, job.presets, otherwise=f"choose from {', '.join(job.presets)}")
            raise UsageError(f"{job.name} has no preset {name!r}", hint)


def parse_job(text: str, *, source: str, folder_name: str) -> Job:
    """The job that a `job.toml` describes. `source` is its path, for messages. Raises JobError."""
    top = _Table(_toml(text, source), source, "")
    top.only(*_KEYS)
    outputs, metrics = top.table("outputs"), top.table("metrics")
    outputs.only("paths", "exclude", "checkpoints")
    metrics.only("pattern")
    requirements = top.get("requirements", _requirements)
    return Job(
        name=top.get("name", _name) or job_name(folder_name),
        summary=top.get("summary", _line) or "",
        command=top.get("command", _command) or (),
        requirements=requirements if isinstance(requirements, tuple) else (),
        requirements_file=requirements if isinstance(requirements, str) else None,
        requires_python=top.get("requires-python", _python),
        presets=top.get("presets", _presets) or (),
        include=top.get("include", _paths) or (),
        outputs=outputs.get("paths", _patterns),
        exclude=outputs.get("exclude", _patterns) or (),
        checkpoints=outputs.get("checkpoints", _patterns) or CHECKPOINTS,
        pattern=metrics.get("pattern", _pattern),
        data=top.get("data", _data) or {},
    )


class _WrongError(Exception):
    """What a value should have been."""


class _Table:
    """A table of the file; messages name its keys as they are written, `outputs.paths`."""

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str) -> None:
        self._values, self._source, self._prefix = values, source, prefix

    def only(self, *keys: str) -> None:
        """Raises JobError for any other key."""
        for key in self._values:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f"did you mean `{self._prefix}{near[0]}`?" if near else f"choose from {', '.join(keys)}"
                raise JobError(f"{self._source}: unknown key `{self._prefix}{_short(key)}`", hint)

    def table(self, key: str) -> _Table:
        """The table under `key`, an empty one where there is none."""
        value = self.get(key, _table)
        return _Table(value or {}, self._source, f"{self._prefix}{key}.")

    def get(self, key: str, check: Callable[[Any], T]) -> T | None:
        """The checked value of `key`, None where it is not there."""
        if key not in self._values:
            return None
        try:
            return check(self._values[key])
        except _WrongError as wrong:
            raise JobError(f"{self._source}: `{self._prefix}{key}` {_short(wrong)}") from None
        except JobError as error:
            what = _short(error.message)
            raise JobError(f"{self._source}: `{self._prefix}{key}`: {what}", error.next_step) from None


def _toml(text: str, source: str) -> dict[str, Any]:
    if _has_deep_key(text):
        raise JobError(f"{source}: a key has too many parts (a.b.c…)", f"{_MOST_PARTS} are the most")
    try:
        read: dict[str, Any] = tomllib.loads(text)
        return read
    except RecursionError as error:
        raise JobError(f"{source}: tables or lists are nested too deeply") from error
    except ValueError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        if found:
            what = _short(found[1])
            raise JobError(f"{source}, line {found[2]}, column {found[3]}: {what}", "it must be TOML") from error
        line = text.rstrip().count("\n") + 1
        raise JobError(f"{source}, line {line}: {_short(error)}", "it must be TOML") from error


def _has_deep_key(text: str) -> bool:
    """A key of thousands of parts takes the parser minutes: its time grows with their number's third power."""
    if text.count(".") < _MOST_PARTS:
        return False
    import re2

    return re2.search(_DEEP_KEY, text) is not None


def _short(text: object) -> str:
    return shorten(safe(str(text)), _MOST_TOLD)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a date or time")


def _line(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongError(f"must be a string, not {_kind(value)}")
    if not value.isprintable():
        raise _WrongError("must be one line of printable characters")
    return value.strip()


def _name(value: Any) -> str:
    name = _line(value)
    if not job_name_ok(name):
        raise _WrongError(f"must be lower-case letters, digits, - and _ (at most 40), not {name!r}")
    return name


def _words(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _WrongError(f"must be {what}, not {_kind(value)}")
    for item in value:
        if not isinstance(item, str):
            raise _WrongError(f"must be {what}; it contains {_kind(item)}")
        if not item or "\0" in item:
            raise _WrongError(f"must be {what}; one is empty" if not item else f"must be {what}; one contains a NUL")
    return tuple(value)


def _command(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str):
        words = _words(value, "a string or a list of strings")
    else:
        try:
            words = tuple(shlex.split(value))
        except ValueError as error:
            raise _WrongError(f"cannot be split into words ({error})") from error
        shell = [word for word in words if word in _SHELL_WORDS]
        if shell or (words and _ASSIGNMENT.match(words[0])):
            said = shell[0] if shell else words[0]
            raise _WrongError(f"is not run by a shell, and only a shell understands {said!r}: use sh -c '…', or a list")
    if not words or "\0" in "".join(words):
        raise _WrongError("must name a program to run")
    return words


def _requirements(value: Any) -> tuple[str, ...] | str:
    """Jobs beside each other may share a file in the folder above."""
    if isinstance(value, str):
        above = "../" if value.startswith("../") else ""
        return above + _path(value.removeprefix("../"))
    lines = _words(value, "the name of a file, or a list of requirements")
    for line in lines:
        if line.startswith("-") or not line.isprintable():
            raise _WrongError(
                f"is a list of requirements, and {line!r} is not one: put pip's options in a requirements file"
            )
    return lines


def _python(value: Any) -> str:
    """https://packaging.python.org/en/latest/specifications/version-specifiers/, as `requires-python` of a project."""
    specifier = _line(value)
    if not specifier or not is_specifier(specifier):
        raise _WrongError(f"must be a version specifier such as '>=3.10', not {specifier!r}")
    return specifier


def python_of_project(text: str) -> str | None:
    """What a `pyproject.toml` says in `project.requires-python`; None where it says nothing that can be read."""
    try:
        project = _toml(text, "pyproject.toml").get("project")
    except JobError:
        return None
    said = project.get("requires-python") if isinstance(project, dict) else None
    return said.strip() if isinstance(said, str) and said.strip() and is_specifier(said) else None


def names_dependencies(text: str) -> bool:
    """Whether a `pyproject.toml` says what its project imports (in `project`, or Poetry's own table)."""
    try:
        top = _toml(text, "pyproject.toml")
    except JobError:
        return True
    project, tool = top.get("project"), top.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    said = project if isinstance(project, dict) else {}
    dynamic = said.get("dynamic")
    later = isinstance(dynamic, list) and "dependencies" in dynamic
    return bool(said.get("dependencies") or later or (isinstance(poetry, dict) and poetry.get("dependencies")))


def _presets(value: Any) -> tuple[str, ...]:
    names = _words(value, "a list of names")
    for name in names:
        if not _PRESET.fullmatch(name):
            raise _WrongError(f"must be a list of names, and {name!r} is not one")
    return names


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(_path(path) for path in _words(value, "a list of paths"))


def _patterns(value: Any) -> tuple[str, ...]:
    """Patterns of paths in the workspace; `./` at the start of one ties it to the workspace itself."""
    patterns = []
    for pattern in _words(value, "a list of paths"):
        if pattern.startswith("!"):
            raise _WrongError(
                f"takes no `!` patterns ({pattern!r}): use `outputs.exclude` for what should not be downloaded"
            )
        patterns.append(("./" if pattern.startswith("./") else "") + _path(pattern))
    return tuple(patterns)


def _path(path: str) -> str:
    """A relative path that stays where it is counted from. Raises _WrongError."""
    if not path.isprintable() or not path:
        raise _WrongError(f"must contain paths of printable characters, not {path!r}")
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path) or "\\" in path:
        raise _WrongError(f"must contain relative paths with / as the separator, not {path!r}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _WrongError(f"must contain paths without `..`, not {path!r}")
    if not parts:
        raise _WrongError(f"must name a file or folder inside, not {path!r}")
    return "/".join(parts) + ("/" if path.endswith("/") else "")


def _pattern(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongError(f"must be a string, not {_kind(value)}")
    job_format(value)
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongError(f"must be a table, not {_kind(value)}")
    return value


def _data(value: Any) -> dict[str, Any]:
    for key, item in _table(value).items():
        if isinstance(item, list):
            _words(item, f"a table of strings, numbers and lists of strings, and in {key} a list of strings")
        elif not isinstance(item, (str, int, float)):
            raise _WrongError(f"must be a table of strings, numbers and lists of strings; {key} is {_kind(item)}")
    return dict(value)
