"""What the command wrote where nothing comes home from: in HOME, beside the workspace, behind links that lead there.

A file counts that has changed since the command started: by its ctime, which no program can set.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Optional

from provisioning.listing import Left
from provisioning.paths import Paths, read_json
from provisioning.patterns import Patterns

_MOST = 500_000
_LONGEST_S = 30.0
_SOONER_NS = 100_000_000
"""The clock that stamps files is a few milliseconds behind the one that stamps the start."""

_REMADE = frozenset(
    (
        *(".cache", ".config", ".local", ".ssh", ".gnupg", ".aws", ".azure", ".docker", ".kube", ".nv", ".triton"),
        *(".conda", ".npm", ".cargo", ".rustup", ".pyenv", ".nvm", ".ipython", ".jupyter", ".matplotlib", ".vscode"),
        *(".vscode-server", ".cursor-server", ".tmux", ".dbus", ".vim", ".keras", ".torch", ".cupy", ".kaggle"),
        *(".huggingface", ".netrc", ".gitconfig", ".git-credentials", ".wget-hsts", ".viminfo", ".lesshst", ".profile"),
        *(".bashrc", ".bash_profile", ".bash_logout", ".bash_history", ".zshrc", ".zsh_history", ".python_history"),
        *(
            ".sudo_as_admin_successful",
            ".Xauthority",
            ".tmux.conf",
            ".selected_editor",
            ".motd_shown",
            ".pip",
            ".cmake",
        ),
        *("scikit_learn_data", "nltk_data", "gensim-data", "seaborn-data", "tensorflow_datasets", "snap"),
        *("miniconda3", "anaconda3", "miniforge3", "mambaforge"),
    )
)
"""Of HOME: settings, histories, caches, what libraries download for themselves."""
_TEMPORARY = re.compile(
    r"\..*|tmp.{8}|(pip|torch|torchinductor|pymp|systemd|snap|matplotlib|ray|cuda|nvidia|tmux)[-_.].*"
)
_ASIDE = re.compile(r"\..+\.(\d+|reserve)")
_INSTANCE_STORE = Path("/opt/dlami/nvme")
"""Where Deep Learning AMIs mount an instance's own disks."""
_SYSTEM = ("/proc", "/sys", "/dev", "/run")
_IN_MEMORY = ("/dev/shm", "/run/user")
"""Of these, where programs put files of their own."""


def written_elsewhere(paths: Paths, checkpoints: Patterns, links: Mapping[str, str]) -> Iterator[Left]:
    """What the command wrote outside of the workspace, a word for each name in HOME, `~/gpuctl` or behind a link.

    Of the folder for temporary files, names below which a checkpoint lies.
    """
    since_ns = _since_ns(paths)
    if since_ns is None:
        return
    scan = _Scan(since_ns, paths)
    home = paths.root.parent
    for top in _names(home):
        if top not in _REMADE and home / top != paths.root:
            yield from scan.of(home / top, f"~/{top}")
    shared = paths.shared()
    for folder in shared:
        for top in _names(folder):
            if folder / top not in shared:
                yield from scan.of(folder / top, f"~/{(folder / top).relative_to(home)}")
    for top in _names(_INSTANCE_STORE):
        yield from scan.of(_INSTANCE_STORE / top, str(_INSTANCE_STORE / top))
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")
    for top in _names(temporary):
        if not _TEMPORARY.fullmatch(top):
            yield from scan.of(temporary / top, str(temporary / top), only=checkpoints)
    for path, target in sorted(links.items()):
        if not _is_in(str(home), [target]) and (not _is_in(target, _SYSTEM) or _is_in(target, _IN_MEMORY)):
            yield from scan.of(Path(target), f"{path} -> {target}")
    if scan.cut:
        yield Left("~/", "outside", "too many files to look through", files=None)


def _is_in(path: str, folders: Iterable[str]) -> bool:
    """True where a path is one of those folders, or lies in one."""
    return any(f"{path}/".startswith(folder.rstrip("/") + "/") for folder in folders)


def _since_ns(paths: Paths) -> Optional[int]:
    started = (read_json(paths.last_begun().state) or {}).get("started")
    if isinstance(started, (int, float)):
        return int(started * 1e9) - _SOONER_NS
    try:
        return paths.provisioned.stat().st_mtime_ns
    except OSError:
        return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


class _Scan:
    """Looks for what is young, through so many files and for so long at most. No link is followed."""

    def __init__(self, since_ns: int, paths: Paths) -> None:
        self._since_ns = since_ns
        self._owned = paths.owned()
        self._shared = paths.shared()
        self._left = _MOST
        self._end = time.monotonic() + _LONGEST_S
        self._seen: set[tuple[int, int]] = set()
        self.cut = False

    def of(self, path: Path, shown: str, *, only: Optional[Patterns] = None) -> Iterator[Left]:
        """What is young at that path or below it, in one word. With `only`, where one file among it matches that."""
        files = size = 0
        meant = only is None
        for found, status in self._young(path):
            files, size = files + 1, size + status.st_size
            meant = meant or (only is not None and only.match(os.path.relpath(found, path.parent)))
        if files and meant:
            why = "outside the workspace"
            yield Left(shown + ("/" if path.is_dir() else ""), "outside", why, files=files, bytes=size)

    def _young(self, path: Path) -> Iterator[tuple[Path, os.stat_result]]:
        waiting = [path]
        while waiting and not self.cut:
            here = waiting.pop()
            try:
                status = os.lstat(here)
            except OSError:
                continue
            self._left -= 1
            self.cut = self._left < 0 or time.monotonic() > self._end
            if self._is_ours(here):
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting += [here / name for name in reversed(_names(here)) if name != "__pycache__"]
            elif self._is_young(status):
                yield here, status

    def _is_ours(self, path: Path) -> bool:
        """What gpuctl writes itself; among that may lie, in two folders, what it does not."""
        if path in self._shared:
            return False
        return path in self._owned or (path.parent in self._shared and _ASIDE.fullmatch(path.name) is not None)

    def _is_young(self, status: os.stat_result) -> bool:
        """A file with something in it, changed since, that was not counted yet."""
        if not stat.S_ISREG(status.st_mode) or not status.st_size or status.st_ctime_ns < self._since_ns:
            return False
        identity = (status.st_dev, status.st_ino)
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True
