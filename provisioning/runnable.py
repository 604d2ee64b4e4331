"""Why a command cannot be run, in words: what the kernel refuses with a number, told by looking at the file."""

from __future__ import annotations

import errno
import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

NOT_FOUND, NOT_RUNNABLE = 127, 126
"""The exit codes that a shell gives."""

_HEAD = 4096
_LONGEST_WORD = 128 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ELF = b"\x7fELF"
_FOREIGN = {
    b"MZ": "a Windows program",
    b"\xcf\xfa\xed\xfe": "a macOS program",
    b"\xca\xfe\xba\xbe": "a macOS program or Java class",
    b"PK": "an archive",
}
# https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html, e_machine
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


class CannotRun(Exception):
    """Why (`why`, one line), and the exit code that tells it."""

    def __init__(self, why: str, code: int = NOT_RUNNABLE) -> None:
        super().__init__(why)
        self.why = why
        self.code = code


def check_file(name: str, path: Path) -> None:
    """Refuse what no kernel would run, and what it would refuse without saying why. Raises CannotRun.

    `name` is the command's own word for the file. A script without `#!` is run as a shell would, and passes.
    """
    if path.is_dir():
        raise CannotRun(f"{name} is a folder, not a program")
    if not os.access(path, os.X_OK):
        raise CannotRun(f"permission denied: {name} is not executable (`chmod +x` it, or put its interpreter in front)")
    head = _head(path)
    if head is None:
        return
    if not head:
        raise CannotRun(f"{name} is an empty file")
    if head.startswith(_BYTE_ORDER_MARK):
        raise CannotRun(f"{name} begins with a byte order mark, which hides its first line: save it as plain UTF-8")
    first = head.split(b"\n", 1)[0]
    if first.endswith(b"\r") and is_script(head):
        begins = _shown(first) + "\\r" if first.startswith(b"#!") else "a line that ends in \\r"
        raise CannotRun(f"{name} begins with {begins}: it has Windows line endings; convert it with dos2unix")


def is_script(head: bytes) -> bool:
    """True for text: what a shell would run by itself where the kernel does not know the file's kind."""
    return b"\0" not in head and not head.startswith(tuple(_FOREIGN))


def needs_a_shell(path: Path) -> bool:
    """True for a script without `#!`, which the kernel refuses and a shell runs."""
    head = _head(path)
    return bool(head) and is_script(head or b"") and not (head or b"").startswith(b"#!")


def explain(error: Exception, name: str, path: Path, words: list[str], environment: Mapping[str, str]) -> CannotRun:
    """What a person understands of the error with which a command did not start."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.E2BIG:
        return CannotRun(_too_long(words, environment))
    if number == errno.ENOENT:
        return CannotRun(_missing_interpreter(name, _head(path) or b""), NOT_FOUND)
    if number == errno.ENOEXEC:
        return CannotRun(f"{name} is {_kind(_head(path) or b'')}, which this host cannot run")
    if number == errno.EACCES:
        return CannotRun(f"permission denied: {name}")
    said = os.strerror(number) if number is not None else str(error)
    return CannotRun(f"{name} could not be started: {said}")


def check_words(words: list[str], environment: Mapping[str, str]) -> None:
    """Refuse what no program can be given. Raises CannotRun."""
    for said, text in [("a word of the command", word) for word in words] + [
        (f"the variable {name}", value) for name, value in environment.items()
    ]:
        if "\0" in text:
            raise CannotRun(f"{said} contains a NUL character, which cannot be passed to a program")
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise CannotRun(f"{said} contains a character that is not text: {text!a}") from None
    for name in environment:
        if not name or "=" in name or "\0" in name:
            raise CannotRun(f"{name!r} cannot be the name of an environment variable")


def _head(path: Path) -> Optional[bytes]:
    """How the file begins; None where it may be run and not read, or is no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(descriptor, _HEAD) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _missing_interpreter(name: str, head: bytes) -> str:
    if head.startswith(b"#!"):
        return f"{name} begins with {_shown(head.splitlines()[0])}, which this host does not have"
    if head.startswith(_ELF):
        return f"{name} needs a program loader that this host does not have: it was built for another system"
    return f"{name} could not be started: it, or something it needs, does not exist"


def _kind(head: bytes) -> str:
    if head.startswith(_ELF) and len(head) >= 20:
        order = "big" if head[5] == 2 else "little"
        machine = int.from_bytes(head[18:20], order)  # type: ignore[arg-type]
        built = _MACHINES.get(machine, f"processor number {machine}")
        return f"a program for {built} (this host is {platform.machine()})"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return what
    return "not a program, nor a script"


def _too_long(words: list[str], environment: Mapping[str, str]) -> str:
    sizes = [(len(os.fsencode(word)), "a word of the command") for word in words]
    sizes += [(len(os.fsencode(value)), f"the variable {name}") for name, value in environment.items()]
    size, what = max(sizes)
    if size >= _LONGEST_WORD:
        return f"{what} has {size:,} bytes; a program can be given {_LONGEST_WORD:,} in one: put it into a file"
    total = sum(size for size, _ in sizes)
    return f"the command and its variables have {total:,} bytes in all, more than a program can be given"


def _shown(line: bytes) -> str:
    """A script's first line, for a message of one line."""
    text = line.rstrip(b"\r").decode("utf-8", "replace").strip()
    return (text if text.isprintable() else ascii(text))[:200]
