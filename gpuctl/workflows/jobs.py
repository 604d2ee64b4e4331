"""Jobs as folders: the packaged ones by name, anybody's project by path, and what of them goes to a host."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from gpuctl.core.errors import JobError, NotFound, UsageError
from gpuctl.core.job import Job, job_without_file, names_dependencies, parse_job, python_of_project
from gpuctl.core.outputs import printable
from gpuctl.core.plan import Upload
from gpuctl.core.text import did_you_mean
from gpuctl.workflows.project_files import is_inside, is_there, read_project_file
from gpuctl.workflows.uploads import project_root

_INCLUDES = re.compile(r"--?(r(?:equirement)?|c(?:onstraint)?)(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*)")
_BUILT = ("pyproject.toml", "setup.py")
_NOT_READ = (*_BUILT, "environment.yml", "environment.yaml", "Pipfile", "uv.lock")
"""Where projects say what they import, and which gpuctl does not read."""
_ITSELF = re.compile(r"(?:(?:-e|--editable)[ =]*)?\./?(?:\[.*\])?")
_ADDRESS = re.compile(r"(?:(?:git|hg|svn|bzr)\+\w+|https?)://\S+")
_ARCHIVES = (".whl", ".zip", ".tar.gz")


@dataclass(frozen=True)
class LoadedJob:
    """A job, the folder it was read from, its requirements' lines, and what of it goes into the workspace.

    `requires_python` is what its `job.toml` says, else its `pyproject.toml`; `unread`: files that say what it imports
    and are not read.
    """

    job: Job
    folder: Path
    requirements: tuple[str, ...]
    uploads: tuple[Upload, ...]
    requires_python: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The folder that nothing of the job may lead out of unless somebody asks for it."""
        return _root(self.folder)

    @property
    def working_folder(self) -> Path:
        """Where the command runs on this machine: the folder that the workspace mirrors."""
        return self.folder.parent.parent if self.job.include else self.folder


def shipped(what: str) -> Path:
    """A folder that gpuctl ships as files, `jobs` or `provisioning`: inside the wheel's package, else beside it."""
    package = Path(str(files("gpuctl")))
    inside = package / "_shipped" / what
    return inside if inside.is_dir() else package.parent / what


def packaged_jobs() -> list[LoadedJob]:
    """The jobs that come with gpuctl, by name."""
    return [load_job(folder) for folder in _packaged().values()]


def packaged_job(name: str) -> LoadedJob:
    """The packaged job of that name. Raises NotFound."""
    packaged = _packaged()
    folder = packaged.get(name.replace("-", "_"))
    if folder is None:
        hint = did_you_mean(name, packaged, otherwise=f"choose from {', '.join(packaged)}")
        raise NotFound(f"no packaged job is called {name!r}", hint)
    return load_job(folder)


def _packaged() -> dict[str, Path]:
    """The packaged jobs' folders, by name."""
    return {path.parent.name: path.parent for path in sorted(shipped("jobs").glob("*/job.toml"))}


def files_of(loaded: LoadedJob) -> list[Upload]:
    """Every file of a job and the name that it has in the workspace, in order; but for Python's own caches."""
    found = []
    for upload in loaded.uploads:
        source = Path(upload.source)
        below = source.rglob("*") if source.is_dir() else [source]
        for path in below:
            if path.is_file() and "__pycache__" not in path.parts:
                name = Path(upload.name, path.relative_to(source)) if source.is_dir() else Path(upload.name)
                found.append(Upload(str(path), name.as_posix()))
    return sorted(found, key=lambda upload: upload.name)


def copy_job(loaded: LoadedJob, to: Path) -> list[str]:
    """Make a folder of one's own of a packaged job, which launches as it is; the files in it. Raises UsageError.

    It keeps its place in its package, so that every import and the command stay as they are; its `job.toml` comes to
    the top, without its name and its `include`.
    """
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is a file", "name a folder that does not exist yet")
    if to.is_dir() and any(to.iterdir()):
        raise UsageError(f"{to} already exists and is not empty", "name a folder that does not exist yet")
    lines = (loaded.folder / "job.toml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("name =", "include ="))]
    files = {"job.toml": "".join(f"{line}\n" for line in kept).encode()}
    files |= {f.name: Path(f.source).read_bytes() for f in files_of(loaded) if Path(f.name).name != "job.toml"}
    for name, content in files.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(content)
    return sorted(files)


def find_job(name: str) -> LoadedJob:
    """The packaged job of that name, or the job in the folder of that path. Raises NotFound or JobError."""
    packaged = _packaged()
    if (wanted := name.replace("-", "_")) in packaged:
        return load_job(packaged[wanted])
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return load_job(folder.resolve())
    if name and folder.exists():
        raise JobError(f"{name} is not a folder", "name the folder that holds the training script")
    hint = did_you_mean(name, packaged, otherwise=f"choose from {', '.join(packaged)}, or name a folder")
    raise NotFound(f"there is no job called {name!r}", hint)


def load_job(folder: Path) -> LoadedJob:
    """Read a job's folder; a folder without `job.toml` is a job too."""
    file = folder / "job.toml"
    if file.exists():
        if not file.is_file():
            raise JobError(f"{file} is not a file", "it must be a TOML file in UTF-8")
        job = parse_job(read_project_file(file, _root(folder)), source=str(file), folder_name=folder.name)
    else:
        job = job_without_file(folder.name)
    python = job.requires_python or _python_of_project(folder)
    requirements = _requirements(job, folder)
    unread = () if job.requirements or job.requirements_file else _unread(folder, requirements)
    return LoadedJob(job, folder, requirements, _workspace(job, folder), python, unread)


def with_requirements(loaded: LoadedJob, words: Sequence[str]) -> LoadedJob:
    """The job with what `--requirement` adds, each checked. Raises UsageError."""
    for word in words:
        _check_requirement(word, loaded)
    requirements = (*loaded.requirements, *words)
    unread = tuple(name for name in loaded.unread if name in _unread(loaded.folder, requirements))
    return replace(loaded, requirements=requirements, unread=unread)


def is_path(requirement: str) -> bool:
    """Whether pip takes a requirement for a folder or file of the workspace."""
    return requirement.startswith(".") or ("/" in requirement.split("@")[0] and "://" not in requirement)


def put_uploads(words: Sequence[str]) -> tuple[Upload, ...]:
    """`--put FILE[:NAME]`, checked: what it names is there, and the name stays in the workspace."""
    uploads = []
    for word in words:
        source, colon, name = word.rpartition(":")
        if not colon or (not Path(source).exists() and Path(word).exists()):
            source, name = word, ""
        if not source:
            raise UsageError(f"--put {word!r} does not name a file", "name a file or folder on this laptop")
        path = Path(source).expanduser()
        if not path.exists():
            raise UsageError(f"--put: {source} does not exist", "name a file or folder on this laptop")
        name = name or path.resolve().name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"--put: {name!r} would be outside the workspace", "give a relative name after the colon")
        uploads.append(Upload(str(path.absolute()), name))
    return tuple(uploads)


def _root(folder: Path) -> Path:
    packaged = shipped("jobs")
    return packaged.resolve() if folder.parent == packaged else project_root(folder)


def _requirements(job: Job, folder: Path) -> tuple[str, ...]:
    named = job.requirements_file
    file = folder / (named or "requirements.txt")
    if job.requirements or (named is None and not is_there(file, Path.is_file)):
        return job.requirements
    root = _root(folder)
    if not is_inside(file, root):
        raise JobError(
            f"the requirements file {file} is outside {root}, and a job may only use its own files",
            f"copy it into {folder}",
        )
    try:
        lines = read_project_file(file, root).splitlines()
    except (FileNotFoundError, NotADirectoryError) as error:
        step = f"see `requirements` in {folder / 'job.toml'}"
        raise JobError(f"{file} cannot be read ({error.strerror})", step) from error
    stripped = [line.split(" #")[0].strip() for line in lines]
    return tuple(_included(line, file, job, folder) for line in stripped if line and not line.startswith("#"))


def _included(line: str, file: Path, job: Job, folder: Path) -> str:
    """`-r FILE` and `-c FILE` by the file's place in the workspace; any other line as it is. Raises JobError."""
    found = _INCLUDES.fullmatch(line)
    if found is None or "://" in found[2]:
        return line
    named = printable(found[2])
    included = Path(os.path.normpath(file.parent / found[2].strip("'\"")))
    for upload in reversed(_workspace(job, folder)):
        source = Path(upload.source)
        if included.is_relative_to(source):
            if not is_there(included, Path.is_file):
                raise JobError(f"{file} names {named}, which does not exist", "correct it, or add the file")
            return f"-{found[1][0]} {Path(upload.name) / included.relative_to(source)}"
    raise JobError(f"{file} names {named}, which is not uploaded: it is outside the job", f"copy it into {folder}")


def _check_requirement(word: str, loaded: LoadedJob) -> None:
    wrong = UsageError(
        f"--requirement {word!r} is not a requirement", "name a package (torch, 'torch>=2.4'), or a folder (./lib)"
    )
    if not word.isprintable() or word != word.strip() or word.startswith(("-", "/", "~")):
        raise wrong
    if is_path(word):
        path = loaded.working_folder / word.split("[")[0]
        there = path.is_dir() or (path.is_file() and word.endswith(_ARCHIVES))
        if not there or not any(is_inside(path, Path(one.source)) for one in loaded.uploads):
            raise UsageError(
                f"--requirement {word}: nothing with that name is uploaded", f"name a folder in {loaded.working_folder}"
            )
        return
    if _ADDRESS.fullmatch(word):
        return
    try:
        url = Requirement(word).url
    except InvalidRequirement:
        raise wrong from None
    if url and not _ADDRESS.fullmatch(url):
        raise wrong


def _unread(folder: Path, requirements: Sequence[str]) -> tuple[str, ...]:
    """Files that say what a project imports, but for those that pip reads where it installs the project itself."""
    read = _BUILT if any(_ITSELF.fullmatch(line) for line in requirements) else ()
    return tuple(name for name in _NOT_READ if name not in read and _says_what_it_imports(folder / name))


def _says_what_it_imports(file: Path) -> bool:
    if file.name != "pyproject.toml":
        return file.is_file()
    try:
        return names_dependencies(read_project_file(file, _root(file.parent)))
    except (OSError, JobError):
        return False


def _python_of_project(folder: Path) -> str | None:
    try:
        return python_of_project(read_project_file(folder / "pyproject.toml", _root(folder)))
    except (OSError, JobError):
        return None


def _workspace(job: Job, folder: Path) -> tuple[Upload, ...]:
    """Where a job's files go. One with `include` is part of a package: it keeps its place there and runs from above."""
    if not job.include:
        return (Upload(str(folder), "."),)
    package = folder.parent
    uploads = [Upload(str(folder), f"{package.name}/{folder.name}")]
    for name in job.include:
        if not is_there(package / name, Path.is_dir):
            raise JobError(f"{folder / 'job.toml'}: include names {printable(name)!r}, which is no folder in {package}")
        uploads.append(Upload(str(package / name), f"{package.name}/{name}"))
    if (package / "__init__.py").exists():
        uploads.append(Upload(str(package / "__init__.py"), f"{package.name}/__init__.py"))
    return tuple(uploads)
