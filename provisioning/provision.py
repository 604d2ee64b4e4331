"""Make a host ready for a run, in one call that may be made again: deadline, driver, files, environment."""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from provisioning.afterwards import idle_limit
from provisioning.driver import NOT_NEEDED, ensure_driver, install
from provisioning.environment import prepare
from provisioning.lease import deadline_armed, power_off_at
from provisioning.listing import check_path
from provisioning.paths import MOST_ATTEMPTS, Paths, attempt_of, write_json, write_small
from provisioning.protocol import Channel, PayloadError, Request
from provisioning.python_version import check_python
from provisioning.state import RUNNING, earlier_ended, read_state, supervisor_lives
from provisioning.torch_gpu import check_torch
from provisioning.transfer import Gunzip, unpack

_ARMED_WITHIN_S = 3.0
UNSTARTED_S = 30 * 60
"""A provisioned host on which nothing is started for so long powers itself off: its laptop is gone."""
_RENEW_S = 60.0
_ALIVE_S = 30.0
"""A program that installs may say nothing for longer than the laptop waits: a wheel that is compiled, apt's lock."""


class _Phases:
    """Says each phase as it begins, and keeps how long each took."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str, detail: str) -> Iterator[None]:
        self._channel.emit("phase", phase=phase, detail=detail)
        began = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - began, 3)

    def tell(self, line: str) -> None:
        """A line of a program that runs in this phase."""
        self._channel.emit("output", text=line)


def provision_verb(paths: Paths, channel: Channel) -> int:
    """Make the host ready."""
    request = channel.read_request()
    _check(request)
    phases = _Phases(channel)
    with phases("deadline", "is the host's deadline set?"):
        _find_deadline(request)
    if read_state(paths).state != RUNNING:
        paths = replace(paths, attempt=attempt_of(request.fields))
    with _ends_where_nothing_starts(paths, request):
        return _provision(paths, channel, request, phases)


def _provision(paths: Paths, channel: Channel, request: Request, phases: _Phases) -> int:
    idle = read_state(paths).state != RUNNING
    if idle:
        # Half provisioned is not provisioned.
        paths.provisioned.unlink(missing_ok=True)
        write_json(paths.spec, request.fields)
    driver = NOT_NEEDED
    if request.flag("gpu"):
        with phases("driver", "does the GPU answer?"), _installing(channel):
            driver = ensure_driver(phases.tell)
            phases.tell(f"NVIDIA driver: {driver}")
    if request.flag("files"):
        with phases("files", "the workspace" if idle else "left as they are: training is running"):
            if idle:
                unpack(channel.body, paths)
            else:
                Gunzip(channel.body).finish()
    paths.work.mkdir(exist_ok=True)
    made = idle and _make_environment(paths, request, phases, channel)
    if idle and driver != NOT_NEEDED:
        with phases("torch", "does it see the GPU?"), channel.alive(_ALIVE_S):
            check_torch(paths.venv / "bin/python", _variables(request), phases.tell)
    channel.emit(
        "provisioned",
        seconds=phases.seconds,
        python=platform.python_version(),
        environment="made" if made else "found",
    )
    return 0


@contextmanager
def _installing(channel: Channel) -> Iterator[None]:
    """What is begun within is finished though the laptop goes away, which hears meanwhile that the host is at work."""
    channel.deaf_to_loss = True
    with channel.alive(_ALIVE_S):
        yield
    channel.deaf_to_loss = False


@contextmanager
def _ends_where_nothing_starts(paths: Paths, request: Request) -> Iterator[None]:
    """A host whose laptop is gone before `start` does not wait for its deadline, but half an hour."""
    if idle_limit(request.fields) is None:
        yield
        return
    over = threading.Event()

    def renew() -> None:
        while True:
            _give_time(paths)
            if over.wait(_RENEW_S):
                break

    thread = threading.Thread(target=renew, name="time to start", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _give_time(paths)


def _give_time(paths: Paths) -> None:
    """Set the host's end, or put it off, where nothing has run yet, or what has run holds nothing up."""
    run = read_state(paths)
    over = run.over or (run.state == "none" and earlier_ended(paths))
    never_ran = run.state == "none" and not over and not supervisor_lives(paths)
    if never_ran or (over and power_off_at(paths) is not None):
        with suppress(OSError):  # a full disk
            write_small(paths.power_off_at, f"{int(time.time() + UNSTARTED_S)}\n")


def _make_environment(paths: Paths, request: Request, phases: _Phases, channel: Channel) -> bool:
    """True where it had to be made. What is being installed is finished and kept even where the laptop goes away."""
    requirements = request.texts("requirements")
    detail = f"{len(requirements)} requirements" if requirements else "no requirements"
    with phases("environment", detail), _installing(channel):
        if shutil.which("tmux") is None:
            install(["tmux"], phases.tell)
        environment = prepare(paths, requirements, _variables(request), phases.tell)
    write_json(paths.provisioned, {"environment": str(environment.path) if environment.path else None})
    return environment.made


def _variables(request: Request) -> dict[str, str]:
    return {str(name): str(value) for name, value in request.mapping("env").items()}


def _check(request: Request) -> None:
    """Refuse what `start` could not use, before anything is done."""
    request.text("run")
    if not request.texts("command"):
        raise PayloadError("the request's command is empty")
    request.texts("requirements")
    check_python(request.text("requires_python") if request.fields.get("requires_python") is not None else None)
    attempt = request.fields.get("attempt", 1)
    if type(attempt) is not int or not 1 <= attempt <= MOST_ATTEMPTS:
        raise PayloadError("the request's attempt is no number of an attempt")
    request.mapping("env")
    outputs = request.mapping("outputs")
    for path in [*(outputs.get("paths") or []), *(outputs.get("exclude") or [])]:
        check_path(path)


def _find_deadline(request: Request) -> None:
    deadline, run = request.number("deadline"), request.text("run")
    end = time.monotonic() + _ARMED_WITHIN_S
    while not deadline_armed(deadline, run):
        if time.monotonic() >= end:
            raise PayloadError("the host's deadline is not set: it would not terminate by itself", "launch again")
        time.sleep(0.05)
