"""Verb to function. Every error is caught here and nowhere else: one JSON line, exit code 1."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

from provisioning.paths import disk_full, here, note_traceback
from provisioning.protocol import Channel, PayloadError

VERBS = {
    "provision": "provisioning.provision",
    "start": "provisioning.session",
    "stop": "provisioning.session",
    "run": "provisioning.supervisor",
    "state": "provisioning.state",
    "follow": "provisioning.follow",
    "manifest": "provisioning.outputs",
    "send": "provisioning.transfer",
    "receipt": "provisioning.lease",
}
_MAKE_ROOM = "make room there (`gpuctl ssh`), or launch again with less data"


def dispatch(arguments: list[str]) -> int:
    """Run one verb; the module that has it is imported only now. Answers the exit code."""
    _speak_utf8()
    verb = arguments[0] if len(arguments) == 1 else ""
    # A `send` has its tar stream on standard output.
    events = os.fdopen(os.dup(2 if verb == "send" else 1), "wb", buffering=1 << 16)
    channel = Channel(sys.stdin.buffer, events)
    paths = None
    try:
        if verb not in VERBS:
            raise PayloadError(f"host.pyz takes one verb: {', '.join(VERBS)}")
        paths = here()
        act = getattr(importlib.import_module(VERBS[verb]), f"{verb}_verb")
        code = act(paths, channel)
    except PayloadError as error:
        code = _tell(channel, error.message, error.next_step)
    except BrokenPipeError:
        _gone()
    except OSError as error:
        note_traceback(paths)
        if disk_full(error):
            code = _tell(channel, f"{verb} failed: the host's disk is full", _MAKE_ROOM)
        else:
            code = _tell(channel, f"{verb} failed on the host: {error}", None)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001  the one place where the unforeseen becomes a line
        note_traceback(paths)
        code = _tell(
            channel, f"{verb} failed on the host: {type(error).__name__}: {error}", "see ~/gpuctl/errors there"
        )
    try:
        channel.flush()
    except BrokenPipeError:
        _gone()
    return int(code)


def _speak_utf8() -> None:
    """File names travel in the way of `os.fsdecode` under UTF-8, whatever the host's locale."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.argv])


def _tell(channel: Channel, message: str, next_step: str | None) -> int:
    try:
        channel.emit("error", message=message, next=next_step)
    except BrokenPipeError:
        _gone()
    return 1


def _gone() -> NoReturn:
    """Nobody listens any more; what is still buffered would only raise again at exit."""
    os._exit(1)
