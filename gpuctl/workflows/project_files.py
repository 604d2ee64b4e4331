"""Small text files of a project that are read on the laptop: regular ones of its own, of 1 MiB at most."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from gpuctl.core.errors import JobError

MOST_BYTES = 1024**2


def is_inside(path: str | os.PathLike[str], root: Path) -> bool:
    """Whether a path, with every link on it followed, lies in `root`."""
    return lies_in(Path(os.path.realpath(path)), root)


def lies_in(real: Path, root: Path) -> bool:
    """Whether a path without links is `root` or below it."""
    return real == root or root in real.parents


def is_there(path: Path, looks: Callable[[Path], bool]) -> bool:
    """What `Path.is_file` or `Path.is_dir` says; False too of a name that no disk takes: too long, or with a NUL."""
    try:
        return looks(path)
    except (OSError, ValueError):
        return False


def read_project_file(file: Path, root: Path) -> str:
    """The text of a project's file, in UTF-8 with or without a byte order mark.

    Raises FileNotFoundError or NotADirectoryError if there is none, and JobError for any other reason.
    """
    real = Path(os.path.realpath(file))
    if not lies_in(real, root.resolve()):
        raise JobError(
            f"{file} is a link out of {root}, to {real}", "only the project's own files are read: copy it there"
        )
    try:
        return _read(real).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except UnicodeDecodeError as error:
        raise JobError(f"{file} cannot be read (it is not UTF-8)", "it must be a text file in UTF-8") from error
    except OSError as error:
        raise JobError(f"{file} cannot be read ({error.strerror})", "it must be a text file in UTF-8") from error


def _read(real: Path) -> bytes:
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB")
    return content
