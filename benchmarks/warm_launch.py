"""A warm launch of a toy project: seconds a phase, AWS calls, SSH connections, bytes and turns to the host."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.bench_tools import Cloud, Part
from benchmarks.relay import Directory, Traffic
from gpuctl.state.runs import run_folder
from gpuctl.workflows.down import down
from gpuctl.workflows.hosts import RunHandle
from gpuctl.workflows.launch import launch
from gpuctl.workflows.planning import Request, plan_launch, read_request
from gpuctl.workflows.reporter import Reporter

FAR_S = 0.1
"""A round trip to a host on another continent."""


class Phases(Reporter):
    """A reporter that keeps how long each phase took."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._name, self._since = "", 0.0
        self.seconds: dict[str, float] = {}

    def phase(self, name: str, detail: str = "") -> None:
        """The one before ends here."""
        now = self._clock()
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now


@dataclass(frozen=True)
class Launch:
    """One launch, measured."""

    seconds: dict[str, float]
    calls: Counter[str]
    traffic: Traffic

    @property
    def total_s(self) -> float:
        """From the command to training that has started."""
        return sum(self.seconds.values())


def measure(cloud: Cloud, project: Path, rounds: int) -> Part:
    """One launch that does not count, then `rounds` that do, then as many to a host that is far away."""
    one(cloud, project, "warm-up")
    near = [one(cloud, project, f"near-{number}") for number in range(rounds)]
    far = [one(cloud, project, f"far-{number}", delay_s=FAR_S / 2) for number in range(rounds)]
    return Part("A warm launch", [*_phases(near, far), "", *_traffic(near), "", *_calls(near), "", *_words(rounds)])


def one(cloud: Cloud, project: Path, name: str, *, delay_s: float = 0.0) -> Launch:
    """Launch the toy project through a relay, and take it down."""
    assert cloud.profile.host_directory_url is not None
    directory = Directory(cloud.profile.host_directory_url, key=cloud.profile.cloud_key, delay_s=delay_s)
    profile = replace(cloud.profile, host_directory_url=directory.url)
    phases = Phases()
    try:
        cloud.forget_calls()
        request = Request(job=str(project), words=("python", "train.py", "0"), name=name)
        now = datetime.now(timezone.utc)
        phases.phase("plan")
        planned = plan_launch(read_request(request), profile=profile, paths=cloud.paths, now=now)
        launch(planned, profile=profile, paths=cloud.paths, reporter=phases)
        phases.phase("")
        seen = Launch(phases.seconds, Counter(cloud.calls()), directory.traffic())
        run = RunHandle(name, profile, planned.account, run_folder(cloud.paths.runs, name))
        down([run], discard=True, now=now, reporter=Phases())
    finally:
        directory.close()
    return seen


def _phases(near: Sequence[Launch], far: Sequence[Launch]) -> list[str]:
    lines = [f"| phase | median | with {FAR_S * 1000:.0f} ms to the host |", "| --- | --- | --- |"]
    for name in near[0].seconds:
        here, there = (statistics.median(one.seconds[name] for one in some) for some in (near, far))
        lines.append(f"| {name} | {here:.2f} s | {there:.2f} s |")
    totals = [statistics.median(one.total_s for one in some) for some in (near, far)]
    return [*lines, f"| **command to training** | **{totals[0]:.2f} s** | **{totals[1]:.2f} s** |"]


def _traffic(launches: Sequence[Launch]) -> list[str]:
    def median(pick: Callable[[Traffic], int]) -> float:
        return statistics.median(pick(one.traffic) for one in launches)

    connections, turns = median(lambda t: t.connections), median(lambda t: t.turns)
    up, down_ = median(lambda t: t.bytes_up) / 1000, median(lambda t: t.bytes_down) / 1000
    return [
        f"To the host, SSH's own exchange included: connections: {connections:.0f}, turns (the laptop speaks after the "
        f"host has: at most so many round trips are waited for): {turns:.0f}, kB up: {up:.0f}, kB down: {down_:.0f}."
    ]


def _calls(launches: Sequence[Launch]) -> list[str]:
    total = statistics.median(sum(one.calls.values()) for one in launches)
    lines = [f"AWS calls: {total:.0f}.", "", "| call | times |", "| --- | --- |"]
    for name in sorted({name for one in launches for name in one.calls}):
        lines.append(f"| {name} | {statistics.median(one.calls[name] for one in launches):.0f} |")
    return lines


def _words(rounds: int) -> list[str]:
    return [
        f"Medians of {rounds} launches each, after one that does not count; the project has nothing to install. An "
        "embedded instance is pending for a moment and boots in a fraction of a second. How long a real one takes was "
        "never measured; it would show in the phases `acquire` and `boot`."
    ]
