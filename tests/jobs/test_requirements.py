"""Each packaged job installs what it imports: all of it, and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gpuctl.core.job import Job, parse_job, tomllib
from tests.jobs.conftest import ROOT

JOBS = sorted(path.parent.name for path in (ROOT / "jobs").glob("*/job.toml"))


def job_of(name: str) -> Job:
    """What the job's file says."""
    path = ROOT / "jobs" / name / "job.toml"
    return parse_job(path.read_text(), source=str(path), folder_name=name)


def file_of(module: str) -> Path | None:
    """A module of this checkout."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def reachable(module: str) -> dict[str, ast.Module]:
    """Every module of `jobs` that is imported, directly or not, anywhere in the file, from `module` on."""
    found: dict[str, ast.Module] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if path is None or name in found:
            continue
        found[name] = ast.parse(path.read_text())
        waiting += [word for word in imported(found[name]) if word.split(".")[0] == "jobs"]
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Every name that a module's import statements may mean, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def looked_up(tree: ast.Module) -> Iterator[str]:
    """What a module that calls `find_spec` may look for: packages whose files are read, not run."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if any(isinstance(func, ast.Name) and func.id == "find_spec" for func in calls):
        yield from (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def needed(name: str) -> set[str]:
    """The distributions that a job's program takes something from."""
    trees = reachable(f"jobs.{name}.train").values()
    tops = {word.split(".")[0] for tree in trees for word in imported(tree)} - {"jobs"} - sys.stdlib_module_names
    names = distribution_names()
    data = {word for tree in trees for word in looked_up(tree) if word in names}
    return {normal(names[top]) for top in tops | data}


@cache
def distribution_names() -> dict[str, str]:
    """The distribution that each top-level name comes from. (`packages_distributions` of Python 3.10 knows only those
    whose wheels say so; here what a wheel's files are called says it too.)"""
    names: dict[str, str] = {}
    for one in distributions():
        files = (one.read_text("RECORD") or "").splitlines()
        for top in {line.split(",")[0].split("/")[0].removesuffix(".py") for line in files}:
            names.setdefault(top, one.metadata["Name"])
    return names


def normal(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", JOBS)
def test_a_job_installs_what_it_imports_and_nothing_else(name: str) -> None:
    """What its program can reach, in every file of the checkout, is what its requirements name."""
    listed = [normal(Requirement(line).name) for line in job_of(name).requirements]
    assert len(set(listed)) == len(listed)
    assert set(listed) == needed(name)


@pytest.mark.parametrize("name", JOBS)
def test_what_a_job_imports_goes_with_it(name: str) -> None:
    """Every module that it reaches lies in its own folder, or in one that it includes."""
    own = {"jobs", f"jobs.{name}", *(f"jobs.{folder}" for folder in job_of(name).include)}
    assert {".".join(module.split(".")[:2]) for module in reachable(f"jobs.{name}.train")} <= own


def test_one_package_has_one_range() -> None:
    """The jobs agree with each other, and the extra `jobs` is what all of them need together."""
    union = {line for name in JOBS for line in job_of(name).requirements}
    names = [normal(Requirement(line).name) for line in union]
    assert len(set(names)) == len(names), sorted(union)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]["jobs"]) == union


def test_from_scratch_hides_nothing_behind_numpy() -> None:
    """Its program, imported whole, has loaded neither torch nor scikit-learn nor SciPy."""
    code = "import sys, jobs.from_scratch.train; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
