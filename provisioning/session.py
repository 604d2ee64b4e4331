"""The tmux session that a run lives in: started once, stopped politely."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Callable

from provisioning.paths import Paths, forget_last_run, note_traceback, read_json, reserve, write_json
from provisioning.processes import descendants, living, named, topmost
from provisioning.protocol import Channel, PayloadError
from provisioning.state import RUNNING, describe, read_state, size_of, supervised_attempt, supervisor_lives

SESSION = "gpuctl"
_ALIVE_S = 2.0
_LAST_WORD_S = 0.1
_BEGIN_WITHIN_S = 30.0
_LOOK_S = 0.02
_SAYS_WHOSE_WITHIN_S = 0.3
GRACE_S = 110.0


def start_verb(paths: Paths, channel: Channel) -> int:
    """Start training, unless it was started already. Answers once it prints, has lived two seconds, or has ended.

    With `alive_s`, what it prints is not enough: it has lived so long, or has ended.
    """
    request = channel.read_request()
    if read_json(paths.provisioned) is None:
        raise PayloadError("this host is not provisioned", "provision it first")
    if not _was_started(paths):
        _begin(paths)
    _wait_for_first_sign(paths)
    _wait_until_lived(paths, request.number("alive_s", 0.0))
    channel.emit("started", state=describe(paths))
    return 0


def _was_started(paths: Paths) -> bool:
    """True where this attempt runs, or has ended: an answer that was lost starts nothing."""
    if read_state(paths).state != "none":
        return True
    # A supervisor that has nothing to say yet, and none of an earlier attempt's that only waits.
    return _wait(lambda: supervised_attempt(paths) == paths.attempt, _SAYS_WHOSE_WITHIN_S)


def _begin(paths: Paths) -> None:
    if shutil.which("tmux") is None:
        raise PayloadError("this host has no tmux", "provision it again, or launch from an image that has tmux")
    reserve(paths)
    # A supervisor that only waits for its idle limit gives way to the next attempt.
    _tmux("kill-session", "-t", f"={SESSION}")
    _wait(lambda: not supervisor_lives(paths), 10)
    forget_last_run(paths)
    options = ["set-option", "-g", "history-limit", "50000", ";"]
    # By that variable a session that the command makes is known to be its own.
    options += ["set-option", "-ga", "update-environment", " GPUCTL_METRICS", ";"]
    session = ["new-session", "-d", "-s", SESSION, "-x", "200", "-y", "50", "-c", str(paths.work)]
    words = ["start-server", ";", *options, *session, sys.executable, os.path.abspath(sys.argv[0]), "run"]
    made = _tmux(*words)
    if made.returncode != 0:
        # The server of a session that was just ended may be on its way out, and take this one along.
        _wait(lambda: _tmux("has-session").returncode != 0, _BEGIN_WITHIN_S)
        made = _tmux(*words)
    if made.returncode != 0:
        reason = made.stderr.decode("utf-8", "replace").strip()
        raise PayloadError(f"tmux could not start the session {SESSION}: {reason}")


def _tmux(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["tmux", *words], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _wait_for_first_sign(paths: Paths) -> None:
    """Return at the command's first output, after two seconds of life, or at its end."""

    def signed() -> bool:
        run = read_state(paths)
        if run.over:
            return True
        if run.started is None:
            return False
        began = read_json(paths.state) or {}
        return size_of(paths.log) > began.get("log_bytes", 0) or time.time() - run.started >= _ALIVE_S

    if not _wait(signed, _BEGIN_WITHIN_S):
        raise PayloadError("training did not start: its supervisor gave no sign", "see ~/gpuctl/errors on the host")
    # What prints its traceback at once has ended a moment later.
    _wait(lambda: read_state(paths).over, _LAST_WORD_S)


def _wait_until_lived(paths: Paths, alive_s: float) -> None:
    """Return once training has lived so long (a minute at most), or has ended: many die of their first imports."""
    run = read_state(paths)
    left_s = alive_s if run.started is None else run.started + alive_s - time.time()
    _wait(lambda: read_state(paths).over, min(left_s, 60.0))


def stop_verb(paths: Paths, channel: Channel) -> int:
    """End training: SIGINT, SIGTERM after half of the grace, SIGKILL after it. Answers once it has ended."""
    request = channel.read_request()
    grace_s = max(0.0, request.number("grace_s", GRACE_S))
    # The supervisor keeps the time: a connection that breaks stops nothing from being stopped.
    try:
        write_json(paths.stop, {"grace_s": grace_s})
    except OSError:  # it ends all the same, with the supervisor's own grace
        note_traceback(paths)
    began = read_json(paths.state)
    if began is not None and read_state(paths).state == RUNNING and supervisor_lives(paths):
        os.kill(int(began["pid"]), signal.SIGTERM)
        if not _wait(lambda: read_state(paths).over, grace_s + 30):
            raise PayloadError(
                f"training did not end{_who(began)}",
                "end it as `gpuctl ssh` lets you; the host's deadline ends it anyway",
            )
    channel.emit("state", **describe(paths))
    return 0


def _who(began: Mapping[str, Any]) -> str:
    below = descendants(int(began["pid"]), living())
    left = topmost([process for process in below if process.pid != began.get("pgid")])
    return f": {named(left)}" if left else ""


def _wait(happened: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not happened():
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_S)
    return True
