"""What goes up, decided before anything is created: every file, link and empty folder, and what stays behind and why.

Each folder is walked once, however many links lead to it: a link to what goes up anyway goes up as a link.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gpuctl.core.errors import UsageError
from gpuctl.core.outputs import MARK
from gpuctl.core.plan import Upload
from gpuctl.core.uploads import (
    DEFAULT,
    DOWNLOADED,
    IGNORE_FILE,
    IGNORED,
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
    readable,
)
from gpuctl.workflows.ignoring import Patterns
from gpuctl.workflows.project_files import is_inside, lies_in, read_project_file

MOST_BYTES = 1024**3
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
    walk = _Walk({str(PurePosixPath(one.name)) for one in put})
    for upload in uploads:
        walk.add(upload, _Rules(root=root.resolve(), top=upload.source))
    for upload in put:
        walk.add(upload, _Rules(root=None, top=upload.source))
    walk.refuse_outside(root)
    content = walk.content()
    _refuse_too_much(content.summary)
    return content


class _Rules:
    """What of one upload stays behind. With no `root`, somebody named it: its links may lead anywhere."""

    def __init__(self, *, root: Path | None, top: str) -> None:
        self.root, self.top = root, top
        self._own = Path(top) / _MARK.parts[0]
        self._patterns = _ignore_file(Path(top) / IGNORE_FILE, root or Path(top))

    def why_not(self, path: Path, *, folder: bool) -> str | None:
        """Why a file or folder stays behind; None if it goes up."""
        if self.root is not None and is_secret(path.name, folder=folder):
            return SECRET
        relative = os.path.relpath(path, self.top)
        said = self._patterns.says(relative, folder=folder)
        if said is not None:
            return IGNORED if said else None
        if is_regenerated(path.name, folder=folder):
            return REGENERATED
        if self.root is None or not folder:
            return None
        return DEFAULT if is_left_out(path.name, top=os.sep not in relative) else None

    def why_not_holding(self, path: Path, names: set[str]) -> str | None:
        """Why a folder stays behind for what is in it: a virtualenv, what came home from a run."""
        if "pyvenv.cfg" in names:
            return REGENERATED
        above, mark = path / _MARK.parts[0], path / _MARK.name
        home = (above.name in names and (above / mark.name).is_file()) or (mark.name in names and path == self._own)
        return DOWNLOADED if home and self.root is not None else None

    def why_not_target(self, real: Path, *, folder: bool) -> str | None:
        """Why what a link leads to stays behind, whatever the link is called."""
        if self.root is None:
            return None
        *above, name = real.relative_to(self.root).parts or ("",)
        secret = any(is_secret(part, folder=True) for part in above) or is_secret(name, folder=folder)
        return SECRET if secret else None


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
    def __init__(self, put_names: set[str]) -> None:
        self._put_names = put_names
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
            if name not in self._put_names:
                self._outside.append((name, os.path.realpath(upload.source)))
            return
        source = Path(upload.source)
        status = _status(source)
        if status is None:
            raise UsageError(f"there is no {upload.source}", None)
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
        shown = [f"{name} (to {target})" for name, target in self._outside[:_SHOWN_OUTSIDE]]
        more = len(self._outside) - len(shown)
        words = " ".join(f"--put {shlex.quote(f'{target}:{name}')}" for name, target in self._outside[:_SHOWN_OUTSIDE])
        raise UsageError(
            f"the job leads out of {root}: {', '.join(shown)}{f' and {more} more' if more else ''}",
            f"name what should be uploaded ({words}), or leave it out with {IGNORE_FILE}",
        )

    def content(self) -> UploadContent:
        """All of it."""
        largest = max(self._sizes, key=lambda name: self._sizes[name], default=None)
        summary = UploadSummary(
            files=len(self._files),
            bytes=sum(self._sizes.values()),
            largest=None if largest is None else readable(largest),
            largest_bytes=self._sizes[largest] if largest else 0,
            left_out=tuple(_shown(why, names) for why, names in sorted(self._left_out.items())),
        )
        return UploadContent(self._files, self._links, self._empty_folders(), summary)

    def _empty_folders(self) -> tuple[str, ...]:
        filled = {"."}
        for name in (*self._files, *self._links, *self._folders):
            above = _above(name)
            while above and above not in filled:
                filled.add(above)
                above = _above(above)
        return tuple(sorted(name for name in self._folders if name and name not in filled))

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
        names = {entry.name for entry in entries}
        if folder.name and (why := folder.rules.why_not_holding(folder.path, names)):
            return self._leave_out(why, f"{folder.name}/")
        self._seen[status.st_dev, status.st_ino] = folder.name
        self._folders.add(folder.name)
        for entry in entries:
            name = f"{folder.name}/{entry.name}" if folder.name else entry.name
            if name not in self._put_names:
                self._take(entry, name, folder.rules)
        return None

    def _take(self, entry: os.DirEntry[str], name: str, rules: _Rules) -> None:
        path = Path(entry.path)
        status = _status(path)
        if status is None:
            return self._leave_out(NOWHERE, name)
        is_folder = stat.S_ISDIR(status.st_mode)
        if why := rules.why_not(path, folder=is_folder):
            return self._leave_out(why, name + "/" * is_folder)
        if not is_folder and not stat.S_ISREG(status.st_mode):
            return self._leave_out(NO_FILE, name)
        if entry.is_symlink():
            path = Path(os.path.realpath(path))
            if rules.root is not None and not lies_in(path, rules.root):
                self._outside.append((name, str(path)))
                return None
            if why := rules.why_not_target(path, folder=is_folder):
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

    def _leave_out(self, why: str, name: str) -> None:
        self._left_out.setdefault(why, []).append(name)


def _shown(why: str, names: Iterable[str]) -> NotUploaded:
    """Caches of one name are all the same; what a person made is named whole."""
    if why == REGENERATED:
        names = [f"{one.rstrip('/').rpartition('/')[2]}/" if one.endswith("/") else "*.pyc" for one in names]
    different = sorted({readable(one) for one in names})
    return NotUploaded(why, tuple(different[:SHOWN_NAMES]), len(different))


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
        raise UsageError(f"{name!r} is not a name inside the workspace", "give a relative one, without `..`")
    return "" if str(path) == "." else str(path)


def _refuse_too_much(summary: UploadSummary) -> None:
    if summary.bytes > MOST_BYTES:
        raise UsageError(
            f"what would go to the host is {summary.bytes / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.1f}; "
            f"the largest file is {summary.largest} ({summary.largest_bytes / 1e9:.1f} GB)",
            f"leave it out with {IGNORE_FILE}, and let the job fetch it",
        )
