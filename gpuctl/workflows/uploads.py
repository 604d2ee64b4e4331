"""What goes up, decided before anything is created: every file, link and empty folder, and what stays behind and why.

Each folder is walked once, however many links lead to it: a link to what goes up anyway goes up as a link.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from gpuctl.core.errors import UsageError
from gpuctl.core.outputs import MARK
from gpuctl.core.plan import Upload
from gpuctl.core.uploads import (
    DEFAULT,
    DOWNLOADED,
    IGNORE_FILE,
    IGNORED,
    MOST_BYTES,
    NO_FILE,
    NOWHERE,
    REGENERATED,
    SECRET,
    SHOWN_NAMES,
    NotUploaded,
    UploadContent,
    UploadSummary,
    is_left_out,
    is_regenerated,
    is_secret,
    leads_to_secret,
    readable,
)
from gpuctl.workflows.ignoring import Patterns
from gpuctl.workflows.project_files import is_inside, lies_in, read_project_file

_SHOWN_OUTSIDE = 3
_MARK = PurePosixPath(MARK)


def project_root(folder: Path) -> Path:
    """The folder whose files belong together: the version-controlled one that a job's folder lies in, else its own."""
    home = Path.home().resolve()
    for above in (folder, *folder.parents):
        if above == home or above in home.parents:
            break
        if (above / ".git").exists():
            return above
    return folder


def collect(uploads: Sequence[Upload], put: Sequence[Upload], *, root: Path) -> UploadContent:
    """All that goes up of a job and of what was named with `--put`, which wins where both give one name.

    Raises UsageError where a job's file, folder or link leads out of `root`, something cannot be read, or it is more
    than 1 GiB.
    """
    walk = _Walk({str(PurePosixPath(one.name)): Path(one.source).is_dir() for one in put})
    real_root = root.resolve()
    for real in map(_without_links, uploads):
        walk.add(real, _Rules(real, root=real_root))
    for upload in put:
        _refuse_linked(upload, real_root)
        real = _without_links(upload)
        walk.add(real, _Rules(real, root=real_root if is_inside(real.source, real_root) else None, named=True))
    walk.refuse_outside(root)
    content = walk.content()
    _refuse_too_much(content.summary)
    return content


def _without_links(upload: Upload) -> Upload:
    """The same by its real path: a link that is in the path of a file later was put there since."""
    return replace(upload, source=os.path.realpath(upload.source))


class _Rules:
    """What of one upload, told without links in its path, stays behind. Its links may not lead out of `root`; `named`:
    somebody asked for it by name."""

    def __init__(self, upload: Upload, *, root: Path | None, named: bool = False) -> None:
        self.root, self.named = root, named
        self.top = Path(upload.source)
        self._name = PurePosixPath(upload.name)
        self._targets: dict[tuple[Path, bool], str | None] = {}

    @cached_property
    def _patterns(self) -> Patterns:
        return _ignore_file(self.top / IGNORE_FILE, self.root or self.top)

    def why_not(self, path: Path, name: str, *, folder: bool) -> str | None:
        """Why a file or folder stays behind, of that name in the workspace; None if it goes up."""
        if is_secret(path, folder=folder):
            return SECRET
        relative = str(PurePosixPath(name).relative_to(self._name))
        said = self._patterns.says(relative, folder=folder)
        if said is not None:
            return IGNORED if said else None
        return self._usual(path, folder=folder, beside_code="/" not in relative)

    def why_not_holding(self, path: Path) -> str | None:
        """Why a folder stays behind for what is in it: a virtualenv, what came home from a run."""
        if (path / "pyvenv.cfg").exists():
            return REGENERATED
        own = path.name == _MARK.parts[0] and path.parent == self.top
        home = (path / _MARK).is_file() or (own and (path / _MARK.name).is_file())
        return DOWNLOADED if home and not self.named else None

    def why_not_target(self, real: Path, name: str, *, folder: bool) -> str | None:
        """Why what a link leads to stays behind, whatever the link is called."""
        if (real, folder) not in self._targets:
            self._targets[real, folder] = self._judge(real, folder=folder)
        why = self._targets[real, folder]
        if why is None or why == SECRET:
            return why
        said = self._patterns.says(str(PurePosixPath(name).relative_to(self._name)), folder=folder)
        return None if said is False else why

    def _judge(self, real: Path, *, folder: bool) -> str | None:
        above = {self.top, *self.top.parents}
        judged = [path for path in (*reversed(real.parents), real) if path not in above]
        if any(is_secret(path, folder=folder or path != real) for path in judged):
            return SECRET
        reasons = (self._why_not_part(path, folder=folder or path != real) for path in judged)
        return next((why for why in reasons if why), None)

    def _why_not_part(self, path: Path, *, folder: bool) -> str | None:
        if lies_in(path, self.top):
            said = self._patterns.says(path.relative_to(self.top).as_posix(), folder=folder)
            if said is not None:
                return IGNORED if said else None
        elif self.root is None or not lies_in(path, self.root):
            return None
        if folder and (why := self.why_not_holding(path)):
            return why
        return self._usual(path, folder=folder, beside_code=path.parent in (self.top, self.root))

    def _usual(self, path: Path, *, folder: bool, beside_code: bool) -> str | None:
        if is_regenerated(path.name, folder=folder):
            return REGENERATED
        if self.named or not folder:
            return None
        return DEFAULT if is_left_out(path.name, top=beside_code) else None


def _refuse_linked(put: Upload, root: Path) -> None:
    """A link of the project chooses what a `--put` names: only what lies in the project and is no secret."""
    source = Path(put.source)
    links = [path for path in (*source.parents, source) if path.is_symlink() and is_inside(path.parent, root)]
    if not links:
        return
    real = source.resolve()
    inside = all(is_inside(path, root) for path in links)
    if leads_to_secret(real.relative_to(root) if lies_in(real, root) else real):
        raise UsageError(f"--put {put.name}: a link leads to {real}, which may hold secrets", "leave it out")
    if not inside:
        words = shlex.quote(f"{real}:{put.name}")
        raise UsageError(
            f"--put {put.name}: a link leads out of {root}, to {real}", f"name the target itself: --put {words}"
        )


def _ignore_file(file: Path, root: Path) -> Patterns:
    try:
        lines = read_project_file(file, root).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    return Patterns(lines, file)


@dataclass(frozen=True)
class _Folder:
    """A folder to look into: where it is, its name in the workspace, what stays behind of it."""

    path: Path
    name: str
    rules: _Rules


class _Walk:
    """`put` are the names that `--put` gives, and whether each is a folder's."""

    def __init__(self, put: Mapping[str, bool]) -> None:
        self._put = put
        self._files: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._links: dict[str, str] = {}
        self._folders: set[str] = set()
        self._left_out: dict[str, list[str]] = {}
        self._outside: list[tuple[str, str]] = []
        self._seen: dict[tuple[int, int], str] = {}
        self._waiting: deque[_Folder] = deque()
        self._linked: deque[_Folder] = deque()

    def add(self, upload: Upload, rules: _Rules) -> None:
        """Take in one upload: a folder with all that is in it, or a file. Raises UsageError."""
        name = _safe_name(upload.name)
        if rules.root is not None and not is_inside(upload.source, rules.root):
            if name not in self._put:
                self._outside.append((name, os.path.realpath(upload.source)))
            return
        source = Path(upload.source)
        status = _status(source)
        if status is None:
            raise UsageError(f"{upload.source} does not exist", None)
        if stat.S_ISDIR(status.st_mode):
            self._waiting.append(_Folder(source, name, rules))
        elif stat.S_ISREG(status.st_mode):
            self._add_file(source, name or source.name, status.st_size)
        else:
            raise UsageError(f"{upload.source} is neither a file nor a folder", None)
        self._drain()

    def refuse_outside(self, root: Path) -> None:
        """Raises UsageError where what the job names, or a link in it, leads out of its folder."""
        if not self._outside:
            return
        first = [(name, target, leads_to_secret(Path(target))) for name, target in self._outside[:_SHOWN_OUTSIDE]]
        shown = [f"{name} (to {target}{', which may hold secrets' * secret})" for name, target, secret in first]
        more = len(self._outside) - len(shown)
        words = " ".join(f"--put {shlex.quote(f'{to}:{name}')}" for name, to, secret in first if not secret)
        leave_out = f"leave it out with {IGNORE_FILE}"
        raise UsageError(
            f"the job uses files outside {root}: {', '.join(shown)}{f' and {more} more' if more else ''}",
            f"name what should be uploaded ({words}), or {leave_out}" if words else leave_out,
        )

    def content(self) -> UploadContent:
        """All of it. Raises UsageError where one name would be a folder and a file, or a folder and a link."""
        filled = self._filled()
        if both := sorted((filled | self._folders) & (self._files.keys() | self._links.keys())):
            raise UsageError(
                f"{readable(both[0])} in the workspace would be both a folder and a file (or a link)",
                "give the --put another name: --put FILE:NAME",
            )
        largest = max(self._sizes, key=lambda name: self._sizes[name], default=None)
        summary = UploadSummary(
            files=len(self._files),
            bytes=sum(self._sizes.values()),
            largest=None if largest is None else readable(largest),
            largest_bytes=self._sizes[largest] if largest else 0,
            left_out=tuple(_shown(why, names) for why, names in sorted(self._left_out.items())),
        )
        return UploadContent(self._files, self._links, tuple(sorted(self._folders - filled)), summary, self._sizes)

    def _filled(self) -> set[str]:
        filled = {""}
        for name in (*self._files, *self._links, *self._folders):
            above = _above(name)
            while above not in filled:
                filled.add(above)
                above = _above(above)
        return filled

    def _drain(self) -> None:
        while self._waiting or self._linked:
            if self._waiting:
                self._look_into(self._waiting.popleft())
            else:
                self._take_link(self._linked.popleft())

    def _take_link(self, folder: _Folder) -> None:
        status = _status(folder.path)
        known = None if status is None else self._seen.get((status.st_dev, status.st_ino))
        if known is None:
            self._waiting.append(folder)
        else:
            self._files.pop(folder.name, None)
            self._sizes.pop(folder.name, None)
            self._links[folder.name] = os.path.relpath(known or ".", _above(folder.name) or ".")

    def _look_into(self, folder: _Folder) -> None:
        try:
            with os.scandir(folder.path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            status = folder.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(folder.path, error.strerror) from error
        if folder.path != folder.rules.top and (why := folder.rules.why_not_holding(folder.path)):
            return self._leave_out(why, f"{folder.name}/")
        self._seen[status.st_dev, status.st_ino] = folder.name
        self._folders.add(folder.name)
        for entry in entries:
            name = f"{folder.name}/{entry.name}" if folder.name else entry.name
            if not self._is_replaced(entry, name):
                self._take(entry, name, folder.rules)
        return None

    def _is_replaced(self, entry: os.DirEntry[str], name: str) -> bool:
        """Whether what `--put` names takes the place of an entry. A folder is merged into a folder of its name."""
        is_folder = self._put.get(name)
        if is_folder is None:
            return False
        return entry.is_symlink() or not (is_folder or entry.is_dir(follow_symlinks=False))

    def _take(self, entry: os.DirEntry[str], name: str, rules: _Rules) -> None:
        path = Path(entry.path)
        status = _status(path)
        if status is None:
            return self._leave_out(NOWHERE, name)
        is_folder = stat.S_ISDIR(status.st_mode)
        if why := rules.why_not(path, name, folder=is_folder):
            return self._leave_out(why, name + "/" * is_folder)
        if not is_folder and not stat.S_ISREG(status.st_mode):
            return self._leave_out(NO_FILE, name)
        if entry.is_symlink():
            path = Path(os.path.realpath(path))
            if rules.root is not None and not lies_in(path, rules.root):
                self._outside.append((name, str(path)))
                return None
            if why := rules.why_not_target(path, name, folder=is_folder):
                return self._leave_out(why, name)
        if not is_folder:
            return self._add_file(path, name, status.st_size)
        waiting = self._linked if entry.is_symlink() else self._waiting
        waiting.append(_Folder(path, name, rules))
        return None

    def _add_file(self, path: Path, name: str, size: int) -> None:
        if not os.access(path, os.R_OK):
            raise _unreadable(path, "permission denied")
        self._files[name], self._sizes[name] = str(path), size
        self._links.pop(name, None)

    def _leave_out(self, why: str, name: str) -> None:
        if name.rstrip("/") in self._put:
            return
        self._left_out.setdefault(why, []).append(name)


def _shown(why: str, names: Iterable[str]) -> NotUploaded:
    """Caches of one name are all the same; what a person made is named whole."""
    if why == REGENERATED:
        names = [_last_part(one) for one in names]
    different = sorted({readable(one) for one in names})
    return NotUploaded(why, tuple(different[:SHOWN_NAMES]), len(different))


def _last_part(name: str) -> str:
    if name.endswith((".pyc", ".pyo")):
        return "*.pyc"
    return name.rstrip("/").rpartition("/")[2] + "/" * name.endswith("/")


def _above(name: str) -> str:
    return name.rpartition("/")[0]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _unreadable(path: Path, why: str | None) -> UsageError:
    return UsageError(f"{path} cannot be read ({why})", f"make it readable, or leave it out with {IGNORE_FILE}")


def _safe_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UsageError(f"{name!r} is not a path inside the workspace", "give a relative path, without `..`")
    return "" if str(path) == "." else str(path)


def _refuse_too_much(summary: UploadSummary) -> None:
    if summary.bytes > MOST_BYTES:
        raise UsageError(
            f"the upload would be {summary.bytes / 1e9:.1f} GB, and the limit is {MOST_BYTES / 1e9:.1f} GB; "
            f"the largest file is {summary.largest} ({summary.largest_bytes / 1e9:.1f} GB)",
            f"leave it out with {IGNORE_FILE}, and have the job download it",
        )
