"""A manifest: what a host says there is of a run's outputs, and what it does not send."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuctl.core.errors import HostError
from gpuctl.core.host_state import ENDED, Training, parse_host_state
from gpuctl.core.outputs import (
    GROWING,
    Left,
    Link,
    RemoteFile,
    Wish,
    collisions,
    link_text,
    parse_file,
    parse_link,
    parse_skipped,
    printable,
    refusal,
)
from gpuctl.remote.host import Host
from gpuctl.remote.protocol import Event

MOST_FILES = 300_000
_MOST_TEXT = 48 * 1024 * 1024
"""Bytes in this laptop's memory, of names and reasons."""


@dataclass
class Manifest:
    """What a host listed: what may come, what is left there, the named paths that match nothing, the run's state."""

    name: str
    files: dict[str, RemoteFile] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    left: dict[str, Left] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    training: Training = "unknown"
    _events: int = 0
    _text: int = 0

    @property
    def over(self) -> bool:
        """True where it was made after training had ended."""
        return self.training in ENDED

    @property
    def bytes(self) -> int:
        """The files' sizes, in all."""
        return sum(file.size for file in self.files.values())

    @property
    def only_log(self) -> bool:
        """True where the command has ended and left nothing but what it printed."""
        return self.over and not self.links and not self.left and self.files.keys() <= GROWING

    def refuse(self, path: str, why: str, kind: str) -> None:
        """Have a file stay where it is."""
        self.left[path] = Left(path, why, kind, files=1, bytes=self.files.pop(path).size)

    def take(self, event: Event) -> None:
        """One event of the answer. What cannot be read is left, and told: it may be anything."""
        read = _READERS.get(str(event["event"]))
        if read is None:
            return
        found = read(event)
        path = found.path if found is not None else _name_of(event)
        self._events += 1
        self._text += sum(sys.getsizeof(text) for text in _texts(found, path))
        if self._events > MOST_FILES or self._text > _MOST_TEXT:
            most = f"{MOST_FILES:,} outputs" if self._events > MOST_FILES else f"{_MOST_TEXT >> 20} MiB of names"
            step = "pack some of them into an archive there (gpuctl ssh) and remove them, then pull again"
            raise HostError(f"{self.name} lists more than {most}", step)
        if found is None:
            self.left[path] = Left(path, "the host's entry for it cannot be read")
        elif isinstance(found, RemoteFile):
            self.files[path] = found
            why = refusal(path)
            if why is not None:
                self.refuse(path, why, "name")
        elif isinstance(found, Link):
            if link_text(found) is None:
                self.left[path] = Left(path, "a link that is not allowed in the destination", "link", files=0)
            else:
                self.links[path] = found
        elif event["event"] == "missing":
            self.missing.append(path)
        else:
            self.left[path] = found


def _refuse_repositories(manifest: Manifest, *, tells_case: bool) -> None:
    """Without its `HEAD` a folder is no bare repository, whose `config` git obeys in it and below (`git status`)."""
    for path in [*manifest.files, *manifest.links]:
        name = path.rpartition("/")[2]
        if name == "HEAD" or (not tells_case and name.casefold() == "head"):
            manifest.links.pop(path, None)
            if path in manifest.files:
                manifest.refuse(path, "git would take the folder that it is in for a repository", "name")
            else:
                manifest.left[path] = Left(
                    path, "git would take the folder that it is in for a repository", "name", files=0
                )


def _name_of(event: Event) -> str:
    path = event.get("path")
    return printable(path) if isinstance(path, str) else "a name that is not text"


def _texts(found: RemoteFile | Link | Left | None, path: str) -> tuple[str, ...]:
    if isinstance(found, Link):
        return path, found.to
    return (path, found.why, found.kind) if isinstance(found, Left) else (path,)


def _missing(event: Event) -> Left | None:
    path = event.get("path")
    return Left(path, "matches no file", "missing") if isinstance(path, str) else None


_READERS: dict[str, Callable[[Event], RemoteFile | Link | Left | None]] = {
    "file": parse_file,
    "link": parse_link,
    "skipped": parse_skipped,
    "missing": _missing,
}


def ask_manifest(host: Host, wish: Wish, *, tells_case: bool) -> Manifest:
    """Ask a host for its outputs. `tells_case` False: home's disk takes `A` and `a` for one. Raises HostError."""
    manifest = Manifest(host.name)
    request = {"max_size": wish.max_size, "everything": wish.everything}
    last = host.call("manifest", request, on_event=manifest.take)
    if last["event"] != "manifest":
        raise HostError(f"{host.name} did not list its outputs to the end", "try again")
    manifest.training = parse_host_state(last.get("state")).training
    _refuse_repositories(manifest, tells_case=tells_case)
    if not tells_case:
        for path, other in collisions([*manifest.files, *manifest.links]).items():
            if path in manifest.files:
                manifest.refuse(path, f"this disk does not tell it from {printable(other)}", "name")
            else:
                del manifest.links[path]
    return manifest
