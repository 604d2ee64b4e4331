"""Launches that are interrupted or killed at any moment: nothing stays behind, or `down` finds it."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from e2e_tool import TRAIN, Gpuctl, in_account


def launch_and(gpuctl: Gpuctl, project: Path, number: signal.Signals, after_s: float, name: str) -> tuple[int, str]:
    """Begin a launch and send it a signal after a while; its exit code and what it said."""
    process = gpuctl.start("launch", str(project), "--name", name, "-d", "-y", "--", "python", "train.py", "100000")
    time.sleep(after_s)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, (out + err).decode()


@pytest.fixture(scope="module")
def took(shared: Gpuctl) -> float:
    """How long a launch takes here, so that moments can be spread over it."""
    (shared.folder / "project").mkdir()
    (shared.folder / "project/train.py").write_text(TRAIN)
    began = time.monotonic()
    shared("launch", "./project", "--name", "warm", "-d", "-y", "--", "python", "train.py", "100000")
    took = time.monotonic() - began
    shared("down", "warm", "-y", "--discard")
    return took


def moments(took: float, count: int) -> list[float]:
    """Moments spread over a launch, each somewhere in its own part of it."""
    chance = random.Random(7)
    return [took * (part + chance.random()) / count for part in range(count)]


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.prove)])
def test_a_killed_launch_leaves_nothing_that_down_does_not_find(
    gpuctl: Gpuctl, project: Path, took: float, count: int
) -> None:
    """kill -9 at moments spread over a launch, then `down --all -y`: nothing is left, every time."""
    for number, moment in enumerate(moments(took, count)):
        launch_and(gpuctl, project, signal.SIGKILL, moment, f"kill-{number}")
        gpuctl("down", "--all", "-y")
        assert in_account(gpuctl.ec2()) == {}, f"after {moment:.2f} s"
        assert gpuctl.json("ls")["runs"] == []


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.prove)])
def test_an_interrupted_launch_leaves_nothing(gpuctl: Gpuctl, project: Path, took: float, count: int) -> None:
    """Ctrl-C at moments spread over a launch: it cleans up by itself, or training had started and goes on."""
    for number, moment in enumerate(moments(took, count)):
        name = f"interrupt-{number}"
        code, said = launch_and(gpuctl, project, signal.SIGINT, moment, name)
        if code == 0 or "has started" in said:
            assert [r["run"] for r in gpuctl.json("ls")["runs"]] == [name]
            gpuctl("down", name, "-y", "--discard")
        else:
            assert code in (130, -signal.SIGINT), f"exit code {code} after {moment:.2f} s: {said}"
        assert in_account(gpuctl.ec2()) == {}, f"after {moment:.2f} s"
        assert not (gpuctl.home / "state/runs" / name / "run.json").exists() or code == 0 or "has started" in said


def test_a_half_made_launch_goes_on(gpuctl: Gpuctl, project: Path, took: float) -> None:
    """The same launch after a kill takes up what there is: one instance, the one that was asked for."""
    launch_and(gpuctl, project, signal.SIGKILL, took * 0.75, "half")
    answer = gpuctl(
        "launch", str(project), "--name", "half", "-d", "-y", "--", "python", "train.py", "100000", code=None
    )
    if answer.code == 2:
        assert "in use" in answer.err
    assert len(in_account(gpuctl.ec2())["instances"]) == 1
    gpuctl("down", "half", "-y", "--discard")


def test_two_launches_of_one_name_make_one_run(gpuctl: Gpuctl, project: Path) -> None:
    """Of two launches at once under one name, one gets it and the other is refused."""
    gpuctl("cloud", "start")
    words = ("launch", str(project), "--name", "twice", "-d", "-y", "--", "python", "train.py", "100000")
    both = [gpuctl.start(*words) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert sorted(process.returncode for process in both) == [0, 2]
    assert len(in_account(gpuctl.ec2())["instances"]) == 1
    gpuctl("down", "twice", "-y", "--discard")
