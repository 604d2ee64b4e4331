"""What a run's Python imports: an environment per set of requirements, shared, and a virtualenv of the run's own.

A virtualenv costs milliseconds, what is installed minutes and gigabytes: so the run's virtualenv is empty, and sees a
shared environment through a `.pth` line.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from provisioning.driver import install
from provisioning.paths import Paths
from provisioning.protocol import PayloadError
from provisioning.shown import Done, run_shown

Tell = Callable[[str], None]

LARGE_BYTES = 100_000_000
_MARK = "gpuctl-whole"
_ADDED = "\n# gpuctl\n"
_UNITS = {"B": 1, "kB": 1e3, "KiB": 2**10, "MB": 1e6, "MiB": 2**20, "GB": 1e9, "GiB": 2**30}
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_INCLUDES = re.compile(r"(-r|-c) (.+)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
"""https://pip.pypa.io/en/stable/reference/requirements-file-format/#using-environment-variables"""
_FETCHED = re.compile(r"\s*Downloading (\S+) \((\d+(?:\.\d+)?) ?(B|kB|KiB|MB|MiB|GB|GiB)\)")


@dataclass(frozen=True)
class Environment:
    """Where it is, and whether it had to be made now."""

    path: Optional[Path]
    made: bool


def prepare(paths: Paths, requirements: list[str], variables: Mapping[str, str], tell: Tell) -> Environment:
    """The environment for these requirements, made where there is none, and the run's virtualenv; or PayloadError.

    `variables` are the command's own; pip sees them too, but for those that would change Python itself.
    """
    own = {name: value for name, value in variables.items() if name != "PATH" and not name.startswith("PYTHON")}
    environment = _shared(paths, requirements, own, tell) if requirements else Environment(None, made=False)
    _make_venv(paths, environment.path)
    return environment


def _shared(paths: Paths, requirements: list[str], variables: Mapping[str, str], tell: Tell) -> Environment:
    path = paths.environments / key(paths, requirements, variables)
    if _is_whole(path):
        return Environment(path, made=False)
    paths.environments.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock"), tell):
        if _is_whole(path):
            return Environment(path, made=False)
        # Made where it stays, since its scripts name their interpreter; the mark is what makes it whole.
        shutil.rmtree(path, ignore_errors=True)
        _install(paths, path, requirements, variables, tell)
        (path / _MARK).touch()
    return Environment(path, made=True)


def _is_whole(path: Path) -> bool:
    """Whether it is there; its mark says then that it was used now: what was not for long may be removed."""
    try:
        os.utime(path / _MARK)
    except FileNotFoundError:
        return False
    except OSError:  # a full disk, or one that is read only
        pass
    return True


def key(paths: Paths, requirements: list[str], variables: Mapping[str, str]) -> str:
    """A hash of all that decides what is installed: requirements, Python, pip's and uv's settings, a build's own."""
    settings = pip_settings(variables) + _variables(variables, "UV_")
    told = [sorted(requirements), sys.version, sys.base_prefix, platform.machine(), settings]
    if any(_is_local(line, paths.work) for line in requirements):
        # It names files of this workspace: no two workspaces are the same.
        told += [str(paths.work), paths.code.read_text() if paths.code.exists() else "", sorted(variables.items())]
    told += [
        [name, variables[name]] for name in sorted(set(_VARIABLE.findall("\n".join(requirements)))) if name in variables
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]


def _is_local(requirement: str, work: Path) -> bool:
    if requirement.startswith(("-", ".", "/")) or "file:" in requirement:
        return True
    named = re.split(r"[;\[\s]", requirement, maxsplit=1)[0]
    return ("/" in named or named.endswith(_ARCHIVES)) and (work / named).exists()


def pip_settings(variables: Mapping[str, str]) -> list[list[str]]:
    """What `pip config list` would show, without waiting for pip: its files' contents, its variables."""
    told = [one for one in _variables(variables, "PIP_") if one[0] not in ("PIP_CACHE_DIR", "PIP_CONFIG_FILE")]
    for path in _pip_files(variables.get("PIP_CONFIG_FILE") or os.environ.get("PIP_CONFIG_FILE")):
        try:
            content = path.read_text(errors="replace").strip()
        except OSError:
            continue
        if content:
            told.append(["file", content])
    return told


def _variables(variables: Mapping[str, str], prefix: str) -> list[list[str]]:
    return [list(one) for one in sorted({**os.environ, **variables}.items()) if one[0].startswith(prefix)]


def _pip_files(named: Optional[str]) -> Iterator[Path]:
    """https://pip.pypa.io/en/stable/topics/configuration/"""
    if named == os.devnull:
        return
    yield Path("/etc/pip.conf")
    for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
        if folder:
            yield Path(folder) / "pip" / "pip.conf"
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip/pip.conf")
        yield Path.home() / "Library/Application Support/pip/pip.conf"
    yield Path.home() / ".pip" / "pip.conf"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pip" / "pip.conf"
    if named:
        yield Path(named)


@contextmanager
def _locked(path: Path, tell: Tell) -> Iterator[None]:
    """Hosts of an embedded cloud share environments: one of them builds, the others wait."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another host is building this environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(paths: Paths, path: Path, requirements: list[str], variables: Mapping[str, str], tell: Tell) -> None:
    _bare_venv(path)
    listed = path / "requirements.txt"
    listed.write_text("".join(f"{_where_it_lies(line, paths.work)}\n" for line in requirements), encoding="utf-8")
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [*_installer(paths, path, variables, tell), "-r", str(listed)]
    done = run_shown(command, Watched(tell), environment={**os.environ, **variables, **quiet}, cwd=paths.work)
    if done.code != 0:
        raise PayloadError(f"the requirements could not be installed: {done.reason}", _what_next(done))


def _where_it_lies(line: str, work: Path) -> str:
    """pip looks for an included file beside the one that includes it, and that is a copy elsewhere."""
    found = _INCLUDES.match(line)
    if found is None or "://" in found.group(2):
        return line
    return f"{found.group(1)} {shlex.quote(str(work / found.group(2)))}"


def _what_next(done: Done) -> str:
    if any("No space left" in line for line in done.last_lines):
        return "give the host a larger disk"
    return "see the lines above, and correct the job's requirements"


def _installer(paths: Paths, path: Path, variables: Mapping[str, str], tell: Tell) -> list[str]:
    """The command that installs into the virtualenv at `path`."""
    python = str(path / "bin" / "python")
    uv = shutil.which("uv")
    if uv is not None and not pip_settings(variables):  # uv goes by none of pip's settings
        return [uv, "pip", "install", "--python", python]
    lent = _lend_pip(path, _find_pip(paths) or _make_pip(paths, tell))
    (_site_packages(path) / "gpuctl.pth").write_text(f"{lent}\n", encoding="utf-8")
    # Compiled by the first import, which is seconds less than compiling all that nobody imports.
    return [python, "-I", "-u", "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]


def _find_pip(paths: Paths) -> Optional[Path]:
    """The folder of a `pip` that this Python can import, without making one."""
    importlib.invalidate_caches()
    found = importlib.util.find_spec("pip")
    if found is not None and found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    made = _site_packages(paths.pip) / "pip"
    return made if made.is_dir() else None


def _make_pip(paths: Paths, tell: Tell) -> Path:
    """A `pip` of this host's own, where its Python comes without; seconds, so once."""
    if importlib.util.find_spec("ensurepip") is None:
        install(["python3-venv"], tell)
    aside = paths.pip.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    made = subprocess.run(
        [sys.executable, "-I", "-m", "venv", str(aside)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if made.returncode != 0:
        raise PayloadError(
            "this host's python3 cannot create a virtualenv", "launch from an image that has python3-venv"
        )
    shutil.rmtree(paths.pip, ignore_errors=True)
    aside.replace(paths.pip)
    return _site_packages(paths.pip) / "pip"


def _lend_pip(path: Path, pip: Path) -> Path:
    """Let a virtualenv import a `pip` that is elsewhere: tens of times faster than to install one into each.

    Behind a folder of its own, so that a newer pip that somebody installs there is not written through the link.
    """
    lent = path / "lent"
    lent.mkdir(exist_ok=True)
    link = lent / "pip"
    link.unlink(missing_ok=True)
    link.symlink_to(pip)
    for name in ("pip", "pip3"):
        script = path / "bin" / name
        if not script.exists():
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(path / "bin" / "python"))} -I -m pip "$@"\n')
            script.chmod(0o755)
    return lent


def _bare_venv(path: Path) -> None:
    venv.EnvBuilder(symlinks=True, with_pip=False).create(path)


class Watched:
    """Passes pip's lines on, and says before anything large is fetched how much it is."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._bytes = 0.0

    def __call__(self, line: str) -> None:
        """Take one line."""
        fetched = parse_fetched(line)
        if fetched is not None:
            name, size = fetched
            before, self._bytes = self._bytes, self._bytes + size
            if size > LARGE_BYTES or before <= LARGE_BYTES < self._bytes:
                self._tell(f"downloading {name}: {size / 1e6:.0f} MB ({self._bytes / 1e6:.0f} MB in all)")
        self._tell(line)


def parse_fetched(line: str) -> Optional[tuple[str, float]]:
    """Of a line with which pip or uv begins a download: what, and how many bytes. None for any other."""
    found = _FETCHED.match(line)
    if found is None:
        return None
    return found.group(1).rpartition("/")[2], float(found.group(2)) * _UNITS[found.group(3)]


def _make_venv(paths: Paths, environment: Optional[Path]) -> None:
    """The run's virtualenv, made anew where it is another Python's; it sees the environment, and a `pip`."""
    python = paths.venv / "bin" / "python"
    try:
        same = os.path.samefile(python, sys.executable)
    except OSError:
        same = False
    site = _site_packages(paths.venv)
    if not same or not site.is_dir():
        shutil.rmtree(paths.venv, ignore_errors=True)
        _bare_venv(paths.venv)
    lines = []
    if environment is not None:
        # `addsitedir` and not the bare path: packages may bring `.pth` lines of their own.
        lines.append(f"import site; site.addsitedir({str(_site_packages(environment))!r})")
    pip = _find_pip(paths)
    if pip is not None:
        # Without one, a command's `pip install` would be the system's and land outside.
        lines.append(str(_lend_pip(paths.venv, pip)))
    (site / "gpuctl.pth").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if environment is not None:
        _let_activate_find(paths.venv / "bin" / "activate", environment)


def _let_activate_find(activate: Path, environment: Path) -> None:
    """Have a shell that activates the virtualenv find the environment's programs too, as the command does."""
    text = activate.read_text(encoding="utf-8").split(_ADDED)[0]
    found = shlex.quote(str(environment / "bin"))
    activate.write_text(f'{text}{_ADDED}PATH="$VIRTUAL_ENV/bin:"{found}":$_OLD_VIRTUAL_PATH"\n', encoding="utf-8")


def _site_packages(path: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(path), "platbase": str(path)}))
