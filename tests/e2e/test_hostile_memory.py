"""`tail`, `pull` and `status` of a host that sends without end: at most 200 MB each, and nobody waits a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e_tool import GPUCTL, Gpuctl
from test_hostile_host import _becomes

MOST_MB = 200
WITHIN_S = 60
FOLLOWED_S = 20
"""For so long a `tail` is looked at, whose log need not end."""
_KIB = 1 if sys.platform == "darwin" else 1024

PRELUDE = """
import base64, itertools, json, sys
def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
def pieces(kind, piece, first=0):
    data, at = base64.b64encode(piece).decode(), first
    for _ in itertools.repeat(None):
        emit(kind, offset=at, data=data)
        at += len(piece)
verb, state = sys.argv[1], {"state": "running", "started": 1e9}
if verb == "state":
    emit("state", **state)
"""
LISTED = """
if verb == "manifest":
    for n in range(100_000):
        emit("file", path=f"outputs/a/folder/file-{n}.bin", size=4, mtime_ns=10**18, inode=n, complete=True)
    emit("manifest", files=100_000, bytes=400_000, state=state)
"""
ENDLESS_TAR = """
if verb == "manifest":
    emit("file", path="a", size=4, mtime_ns=10**18, inode=1, complete=True)
    emit("manifest", files=1, bytes=4, state=state)
if verb == "send":
    for _ in itertools.repeat(None):
        sys.stdout.buffer.write(bytes(65536))
"""
LOGS = {
    "an endless line": 'pieces("log", b"x" * 60_000)',
    "an endless log": 'pieces("log", b"step 1: train loss 2.0, val loss 3.0\\n" * 2000)',
    "endless metrics": 'pieces("metrics", b\'{"step": 1, "train_loss": 2.0}\\n\' * 2000)',
    "events of 24 MB": 'emit("log", offset=0, data=base64.b64encode(bytes(18_000_000)).decode()); sys.stdin.read()',
    "a line without end": 'sys.stdout.write("{"); [sys.stdout.write("x" * 65536) for _ in itertools.repeat(None)]',
}
PULLS = {
    "a hundred thousand files": LISTED,
    "an endless listing": 'for n in itertools.count():\n    emit("file", path=f"f{n}", size=4, mtime_ns=1, inode=n)',
    "an endless tar": ENDLESS_TAR,
    "events of 24 MB": 'emit("skipped", path="a", why="w" * 24_000_000, kind="k")',
}


@dataclass(frozen=True)
class Measured:
    """How a command ended (None: it was stopped, as it went on), what it said, how long it took, its peak memory."""

    code: int | None
    err: str
    took_s: float
    peak_mb: float


def _measured(gpuctl: Gpuctl, *words: str, within_s: float) -> Measured:
    errors, began = gpuctl.folder / "err", time.monotonic()
    with errors.open("wb") as err:
        process = subprocess.Popen(
            [GPUCTL, *words],
            cwd=gpuctl.folder,
            env=dict(gpuctl.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        )
    stopped = False
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if not stopped and time.monotonic() - began > within_s:
            stopped = True
            os.kill(process.pid, signal.SIGINT)
        if time.monotonic() - began > within_s + 30:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak_mb = used.ru_maxrss * _KIB / 1e6
    code = None if stopped and process.returncode >= 0 else process.returncode
    return Measured(code, errors.read_text(errors="replace"), time.monotonic() - began, peak_mb)


@pytest.fixture(scope="module")
def hostile(shared: Gpuctl, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A run whose host runs this program from now on; one host for all."""
    project: Path = tmp_path_factory.mktemp("project")
    (project / "train.py").write_text("import time; time.sleep(3600)")
    shared("launch", str(project), "--name", "toy", "-d", "--", "python", "train.py")

    def become(source: str) -> str:
        _becomes(shared, "toy", PRELUDE + source)
        for copy in (shared.home / "state/runs/toy/hosts/0").glob("*"):
            copy.unlink()
        return "toy"

    return become


def _told(found: Measured, record_property: Callable[[str, object], None]) -> None:
    record_property("peak", f"{found.peak_mb:.0f} MB")
    record_property("took", f"{found.took_s:.0f} s")
    assert found.peak_mb <= MOST_MB
    assert "unexpected" not in found.err and "Traceback" not in found.err


@pytest.mark.prove
@pytest.mark.parametrize("source", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("word", ["tail", "status"])
def test_a_log_without_end_takes_little_memory(
    shared: Gpuctl,
    hostile: Callable[[str], str],
    record_property: Callable[[str, object], None],
    source: str,
    word: str,
) -> None:
    """`tail` goes on until it is told to stop, or ends in one line; `status` says what it knows within a minute."""
    run = hostile(f'if verb == "follow":\n    {source}')
    found = _measured(shared, word, run, within_s=FOLLOWED_S if word == "tail" else WITHIN_S)
    _told(found, record_property)
    assert found.took_s < WITHIN_S
    assert found.code == 0 or word == "tail"


@pytest.mark.prove
@pytest.mark.parametrize("source", PULLS.values(), ids=PULLS)
def test_a_pull_of_what_has_no_end_comes_to_one(
    shared: Gpuctl, hostile: Callable[[str], str], record_property: Callable[[str, object], None], source: str
) -> None:
    """`pull` refuses it, or tells what did not come."""
    if not source.startswith("\nif"):
        indented = source.replace("\n", "\n    ")
        source = f'if verb == "manifest":\n    {indented}'
    found = _measured(shared, "pull", hostile(source), within_s=WITHIN_S)
    _told(found, record_property)
    assert found.code not in (None, 0)
