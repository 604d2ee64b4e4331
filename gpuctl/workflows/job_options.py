"""The options of a job's own program, read from its source: nothing of it is imported, so nothing of it is needed here.

A program that is made as the packaged ones are (`jobs.common.args`) has its settings in a class of fields
`name: type = option(default, "what it means")`, its presets in a dictionary of that class's instances, and the options
that every job has in calls `add("--name", …, help="…")`. Of any other program nothing is known.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuctl.core.errors import UsageError
from gpuctl.core.job import check_preset
from gpuctl.workflows.jobs import LoadedJob
from gpuctl.workflows.project_files import read_project_file

HELP = ("-h", "--help")

_Presets = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Option:
    """One option: `--name`, what it means, and its default in each preset where the source tells it."""

    name: str
    help: str
    defaults: dict[str, Any] = field(default_factory=dict)


def options_of(loaded: LoadedJob) -> list[Option]:
    """The options of the job's program, its own first; none where they cannot be told."""
    return _options(loaded, _presets)


def option_names(loaded: LoadedJob) -> list[str]:
    """What they are called, without their defaults, of which a program may have very many."""
    return [option.name for option in _options(loaded, lambda program: {})]


def _options(loaded: LoadedJob, presets_of: Callable[[ast.Module], _Presets]) -> list[Option]:
    try:
        return _found(loaded, presets_of)
    except Exception:  # noqa: BLE001  (a source of any shape: what is not understood has no options that are known)
        return []


def _found(loaded: LoadedJob, presets_of: Callable[[ast.Module], _Presets]) -> list[Option]:
    words = loaded.job.command
    if "-m" not in words[:-1]:
        return []
    program = _source(loaded, words[words.index("-m") + 1])
    settings = next((node for node in program.body if _is_settings(node)), None)
    if not isinstance(settings, ast.ClassDef):
        return []
    names = [node.module for node in program.body if isinstance(node, ast.ImportFrom) and node.module]
    computes = any(name.endswith(".device") for name in names)
    args = next((name for name in names if name.endswith(".args")), None)
    common = list(_added(_source(loaded, args), device=computes)) if args else []
    return [*_settings(settings, presets_of(program)), *common] if common else []


def check_words(loaded: LoadedJob, words: Sequence[str]) -> None:
    """Refuse what the job's own program would refuse, before anything is paid for: a preset or an option that is none.

    Words that replace the command are not looked at. Raises UsageError.
    """
    if not words or not words[0].startswith("-"):
        return
    check_preset(loaded.job, words)
    known = option_names(loaded)
    given = [word.split("=")[0] for word in words if word.startswith("--") and word != "--"]
    for name in given if known else []:
        if name not in HELP and not any(one.startswith(name) for one in known):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else f"`gpuctl jobs {loaded.folder.name}` lists them"
            raise UsageError(f"{loaded.job.name} has no option {name}", hint)


def _source(loaded: LoadedJob, module: str) -> ast.Module:
    """A module of the job's, parsed; an empty one where it is not there."""
    path = Path(loaded.working_folder, *module.split(".")).with_suffix(".py")
    try:
        text = read_project_file(path, loaded.root)
    except (FileNotFoundError, NotADirectoryError):
        return ast.Module(body=[], type_ignores=[])
    with warnings.catch_warnings():  # of what the job's author wrote
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _is_settings(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any(_option_call(line) for line in node.body)


def _option_call(line: ast.stmt) -> ast.Call | None:
    """The `option(…)` of a field, where the line is one."""
    if isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Call):
        made_by = line.value.func
        if isinstance(made_by, ast.Name) and made_by.id == "option" and len(line.value.args) >= 2:
            return line.value
    return None


def _settings(settings: ast.ClassDef, presets: _Presets) -> Iterator[Option]:
    for line in settings.body:
        call = _option_call(line)
        if call is None or not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        name, usual, text = line.target.id, _literal(call.args[0]), _text(call.args[1])
        values = {preset: changed.get(name, usual) for preset, changed in presets.items()}
        flag = "--" + name.replace("_", "-")
        yield Option(flag, text, {preset: value for preset, value in values.items() if value is not None})
        if isinstance(usual, bool):
            yield Option(flag.replace("--", "--no-", 1), f"the opposite of {flag}")


def _presets(program: ast.Module) -> _Presets:
    """What each preset changes of the settings' own defaults."""
    for node in program.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            calls = {_text(key): value for key, value in pairs if isinstance(value, ast.Call)}
            if calls and len(calls) == len(node.value.keys):
                return {name: _keywords(call) for name, call in calls.items()}
    return {}


def _keywords(call: ast.Call) -> dict[str, Any]:
    return {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg}


def _added(tree: ast.Module, *, device: bool) -> Iterator[Option]:
    """The options that every job has; those that are about torch's device, only where the program has one."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.If) and not device) and isinstance(node, (ast.If, ast.FunctionDef)):
            for line in node.body:
                call = line.value if isinstance(line, ast.Expr) else None
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "add":
                    told = {keyword.arg: keyword.value for keyword in call.keywords}
                    if name := _text(call.args[0] if call.args else None):
                        yield Option(name, _text(told.get("help")))


def _literal(node: ast.expr | None) -> Any:
    """The value that is written there, None where it is not written but computed."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # by its documentation
        return None


def _text(node: ast.expr | None) -> str:
    """The text that is written there, empty where something else is."""
    value = _literal(node)
    return value if isinstance(value, str) else ""
