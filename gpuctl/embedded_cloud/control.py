"""Starting, stopping and asking after the one cloud process of a state folder, from outside it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from gpuctl.core.interpreter import module_command
from gpuctl.embedded_cloud import cleanup, shared_environments
from gpuctl.embedded_cloud import place as places
from gpuctl.embedded_cloud.place import Place, Running
from gpuctl.embedded_cloud.pythons import Python, PythonError, find_pythons

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
HUNG_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 10.0
CLOUD_MODULE = "gpuctl.embedded_cloud"
_LONGEST_LOG_BYTES = 10_000_000
_NOT_INHERITED = ("AWS_", "MOTO_", "GPUCTL_")


class CloudProcessError(Exception):
    """What could not be started or stopped, in one line."""


class OptionsError(CloudProcessError):
    """A cloud that cannot be had as it was asked for, and why."""


@dataclass(frozen=True)
class Options:
    """How a cloud is to run. `port` 0: the one it had before where that is free, else any. `pythons`: its images'."""

    port: int = 0
    pythons: tuple[str, ...] = ()
    cache: Path | None = None
    hosts: bool = True
    host_command: str | None = None

    def as_arguments(self) -> list[str]:
        """The same, as words for `serve`."""
        words = ["--port", str(self.port)]
        for python in self.pythons:
            words += ["--python", python]
        if self.cache is not None:
            words += ["--cache", str(self.cache)]
        if not self.hosts:
            words += ["--no-hosts"]
        if self.host_command is not None:
            words += ["--host-command", self.host_command]
        return words


@dataclass(frozen=True)
class Started:
    """A running cloud; `lost` are the instances of one that died before it, told to whoever starts the next."""

    endpoint: str
    pid: int
    started: float
    lost: list[str] = field(default_factory=list)


def shared_cache(place: Place, options: Options) -> Path:
    """What all hosts share, and what outlives the cloud."""
    return options.cache or place.state / "cache"


def start(place: Place, options: Options) -> Started:
    """Makes sure that exactly one cloud runs on the state, as asked for. Raises CloudProcessError."""
    try:
        pythons = find_pythons(options.pythons) if options.pythons else []
    except PythonError as error:
        raise OptionsError(str(error)) from error
    options = replace(options, pythons=tuple(python.path for python in pythons))
    found = places.running(place)
    if found is None:
        with _alone(place):
            found = places.running(place)
            if found is None:
                return _spawn(place, options)
    port = int(found.endpoint.rpartition(":")[2])
    if options.port not in (0, port):
        raise CloudProcessError(f"the cloud in {place.state} is already running on port {port}, not on {options.port}")
    if pythons:
        _require_pythons(found, pythons)
    return Started(endpoint=found.endpoint, pid=found.pid, started=found.started)


def _require_pythons(found: Running, pythons: list[Python]) -> None:
    """Raises OptionsError where the cloud that runs has other Pythons, or has them in another order."""
    health = places.ask_health(found) or {}
    there = [Python(path=one["path"], version=one["version"]) for one in health.get("pythons", [])]
    if there != pythons:
        has, asked = (", ".join(f"Python {one.version} ({one.path})" for one in some) for some in (there, pythons))
        raise OptionsError(
            f"the embedded cloud is already running, with {has} and not {asked}; stop it first: gpuctl cloud stop"
        )


def _spawn(place: Place, options: Options) -> Started:
    words = module_command(sys.executable, CLOUD_MODULE, "serve", "--state", str(place.state), *options.as_arguments())
    too_long = place.log.exists() and place.log.stat().st_size > _LONGEST_LOG_BYTES
    with place.log.open("wb" if too_long else "ab") as log:
        place.log.chmod(0o600)
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env=_environment(),
        )
    assert process.stdout is not None
    with process.stdout as stdout:
        line = _first_line(stdout, deadline=time.monotonic() + START_TIMEOUT_S)
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        answer = json.loads(line)
    if "endpoint" not in answer:
        process.kill()
        process.wait()
        raise CloudProcessError(answer.get("error", f"the cloud did not start; {place.log} says why"))
    process.returncode = 0  # it outlives this process on purpose: nothing here waits for it
    return Started(**answer)


def _first_line(stdout: IO[bytes], *, deadline: float) -> bytes:
    """The first line, or what came of it until the end or the deadline."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(stdout.fileno(), 65536) if ready else b""
        if not part:
            break
        line += part
    return line


def _environment() -> dict[str, str]:
    """The caller's environment, less what would change how the cloud behaves or hand its hosts a secret."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}


def stop(place: Place) -> bool:
    """Ends the cloud and all its hosts and waits until nothing is left; False where none ran. Raises CloudProcessError.

    That the process is gone is read from its lock, not its number: where nobody reaps it, a dead process keeps that.
    """
    with _alone(place):
        held = FileLock(place.serve_lock, mode=0o600)
        ran = not _acquired(held, timeout_s=0)
        if ran:
            _end(place, held)
        try:
            _tidy(place)
        finally:
            held.release()
        return ran


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Nobody else starts or stops the cloud meanwhile. Raises CloudProcessError where somebody does for long."""
    lock = FileLock(place.start_lock, mode=0o600)
    if not _acquired(lock, timeout_s=START_TIMEOUT_S):
        raise CloudProcessError(f"another process has been starting or stopping the cloud in {place.state}")
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, *, timeout_s: float) -> bool:
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.02)
    except Timeout:
        return False
    return True


def _end(place: Place, held: FileLock) -> None:
    """Ends the process that holds the lock, if that is a cloud: a recorded number may be another program's by now."""
    record = places.recorded(place)
    if record is None or not cleanup.runs_module(record.pid, CLOUD_MODULE):
        # A cloud ends by itself where its file is gone; who only asks whether one lives holds the lock for a moment.
        if _acquired(held, timeout_s=KILL_TIMEOUT_S):
            return
        raise CloudProcessError(f"a cloud holds {place.serve_lock} and {place.cloud_json} does not say which")
    answers = places.ask_health(record, timeout_s=HUNG_TIMEOUT_S) is not None
    politely_s = STOP_TIMEOUT_S if answers else HUNG_TIMEOUT_S
    for signal_number, timeout_s in ((signal.SIGTERM, politely_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal_number)
        if _acquired(held, timeout_s=timeout_s):
            _wait_for_exit(record.pid)
            return
    raise CloudProcessError(f"the cloud's process {record.pid} did not end")


def _wait_for_exit(pid: int) -> None:
    """The lock is let go a moment before the interpreter has ended."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while cleanup.runs_module(pid, CLOUD_MODULE) and time.monotonic() < deadline:
        time.sleep(0.01)


def _tidy(place: Place) -> None:
    """Removes what a cloud that was killed left: it does so itself when it ends in peace."""
    cleanup.clear(place)
    place.cloud_json.unlink(missing_ok=True)
    for folder in (place.hosts, place.ledger):
        shutil.rmtree(folder, ignore_errors=True)


def status(place: Place, options: Options) -> dict[str, Any]:
    """`{"running", "endpoint", "pid", "instances", "pythons", "environments"}`; all but the first and the last None
    where no cloud runs. `environments` are what hosts have installed: `{"folder", "count", "bytes"}`."""
    folder = shared_cache(place, options) / "environments"
    there = shared_environments.listed(folder)
    total = shared_environments.total_bytes(there)
    environments = {"folder": str(folder), "count": len(there), "bytes": total}
    found = places.running(place)
    health = places.ask_health(found) if found else None
    if found is None or health is None:
        nothing = dict.fromkeys(("endpoint", "pid", "instances", "pythons"))
        return {"running": False, **nothing, "environments": environments}
    told = {name: health.get(name) for name in ("instances", "pythons")}
    return {"running": True, "endpoint": found.endpoint, "pid": found.pid, **told, "environments": environments}


def clean(place: Place, options: Options) -> dict[str, Any]:
    """Remove what hosts have installed and none uses now: `{"removed", "bytes", "kept"}`."""
    folder = shared_cache(place, options) / "environments"
    gone = shared_environments.remove_unused(folder, hosts=place.hosts)
    kept = len(shared_environments.listed(folder))
    return {"removed": len(gone), "bytes": shared_environments.total_bytes(gone), "kept": kept}
