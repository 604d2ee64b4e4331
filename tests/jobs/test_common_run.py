"""`jobs.common.run`: what a run prints and keeps, how it stops, and how it goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jobs.common.run import Run, load
from tests.jobs.conftest import ROOT, surroundings

LOOP = """
import sys, torch
from jobs.common.run import Run
run = Run(outputs=sys.argv[1])
step = 0
while not run.stopping:
    step += 1
    run.save("checkpoint.pt", {"step": step, "weights": torch.full((300_000,), float(step))})
    print("saved", step, flush=True)
print("left the loop", flush=True)
"""


def start(program: str, *words: object) -> subprocess.Popen[str]:
    """A child that runs ``program``, its output piped."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=ROOT,
        env=surroundings(),
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read the child's lines up to the one that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(words):
            return
    raise AssertionError(f"ended without saying {words!r}")


def test_a_line_for_a_person_and_one_for_each_split_for_a_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One call prints both losses on one line and appends a JSON line for each, with whatever else was told."""
    run = Run(outputs=tmp_path)
    run.log(step=120, epoch=0.4, losses={"train": 1.9312, "val": 1.98}, rate=0.002)
    assert capsys.readouterr().out == "step 120  epoch 0.40  train loss 1.9312  val loss 1.9800  rate 0.002\n"
    points = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(p["step"], p["epoch"], p["split"], p["loss"], p["rate"]) for p in points] == [
        (120, 0.4, "train", 1.9312, 0.002),
        (120, 0.4, "val", 1.98, 0.002),
    ]
    assert all(abs(p["time"] - time.time()) < 60 for p in points)


def test_a_loss_that_is_no_number_is_null(tmp_path: Path) -> None:
    """JSON has no NaN and no infinity: the loss is null, and its kind stands beside it."""
    run = Run(outputs=tmp_path)
    run.log(step=1, epoch=0.0, losses={"train": float("nan"), "val": float("-inf")})
    points = [json.loads(line, parse_constant=pytest.fail) for line in run.metrics.read_text().splitlines()]
    assert [(p["loss"], p["nonfinite"]) for p in points] == [(None, "nan"), (None, "-inf")]


def test_metrics_go_where_gpuctl_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUCTL_METRICS names the file; beginning anew leaves it alone, for it is the supervisor's."""
    there = tmp_path / "elsewhere" / "metrics.jsonl"
    monkeypatch.setenv("GPUCTL_METRICS", str(there))
    for _ in range(2):
        run = Run(outputs=tmp_path / "outputs")
        assert run.resume() is None
        run.log(step=1, epoch=0.1, loss=2.0)
    assert len(there.read_text().splitlines()) == 2
    assert not (tmp_path / "outputs" / "metrics.jsonl").exists()


def test_a_checkpoint_is_never_half_written(tmp_path: Path) -> None:
    """Whenever a process that saves all the time is killed, the checkpoint is whole and a step that was saved."""
    rng = random.Random(4)
    for _ in range(4):
        process = start(LOOP, tmp_path)
        read_until(process, "saved 2")
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        state = load(tmp_path / "checkpoint.pt")
        assert torch.equal(state["weights"], torch.full((300_000,), float(state["step"])))
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint.pt", ".checkpoint.pt.partial"}
    Run(outputs=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(tmp_path: Path, number: signal.Signals) -> None:
    """After one signal the loop is left in good order; a second one ends a process that does not listen."""
    process = start(LOOP, tmp_path)
    read_until(process, "saved")
    process.send_signal(number)
    assert "left the loop" in process.communicate(timeout=60)[0]
    assert process.returncode == 0

    deaf = start("from jobs.common.run import Run; import time; Run(outputs='.'); print('up', flush=True)\n"
                 "while True: time.sleep(1)", cwd := tmp_path)  # fmt: skip
    read_until(deaf, "up")
    deaf.send_signal(number)
    read_until(deaf, "stopping")
    deaf.send_signal(number)
    deaf.communicate(timeout=60)
    assert deaf.returncode == -number, cwd


def test_chance_goes_on_where_it_was(tmp_path: Path) -> None:
    """After a restore, Python, NumPy and torch draw what they would have drawn, and the optimizer steps so."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> tuple[float, float, torch.Tensor, torch.Tensor]:
        optimizer.zero_grad()
        model(torch.rand(4, 3)).sum().backward()
        optimizer.step()
        return random.random(), float(np.random.rand()), torch.rand(2), model.weight.detach().clone()

    step()
    run = Run(outputs=tmp_path)
    run.save("checkpoint.pt", run.capture(model=model, optimizer=optimizer, step=1))
    first = step()
    again = Run(outputs=tmp_path)
    state = again.resume()
    assert state is not None
    again.restore(state, model=model, optimizer=optimizer)
    second = step()
    assert first[:2] == second[:2]
    assert torch.equal(first[2], second[2])
    assert torch.equal(first[3], second[3])


def test_what_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path given wins over GPUCTL_RESUME, that over the outputs folder's own; 'never' over all."""
    for name in ("given", "named", "outputs"):
        Run(outputs=tmp_path / name).save("checkpoint.pt", {"step": name})
    outputs, given = tmp_path / "outputs", tmp_path / "given" / "checkpoint.pt"

    def resumed(resume: str | Path) -> Any:
        return (Run(outputs=outputs, resume=resume).resume() or {}).get("step")

    assert resumed("auto") == "outputs"
    monkeypatch.setenv("GPUCTL_RESUME", str(tmp_path / "named" / "checkpoint.pt"))
    assert resumed("auto") == "named"
    assert resumed(given) == "given"
    assert resumed("never") is None


def test_a_finished_run_and_another_run_are_not_gone_on_with(tmp_path: Path) -> None:
    """The folder's own checkpoint counts only if unfinished and of the same settings; else all begins anew."""
    run = Run(outputs=tmp_path)
    run.log(step=1, epoch=0.1, loss=2.0)
    run.save("checkpoint.pt", {"step": 1, "settings": {"rate": 1.0}})
    assert Run(outputs=tmp_path).resume({"rate": 1.0}) is not None
    assert run.metrics.exists()
    assert Run(outputs=tmp_path).resume({"rate": 2.0}) is None
    assert not run.metrics.exists()
    run.save("checkpoint.pt", {"step": 2, "settings": {"rate": 1.0}, "finished": True})
    assert Run(outputs=tmp_path).resume({"rate": 1.0}) is None


def test_time_counts_over_attempts(tmp_path: Path) -> None:
    """What an earlier attempt took is part of `max_seconds`."""
    run = Run(outputs=tmp_path, max_seconds=50)
    state = {**run.capture(), "elapsed_s": 40.0}
    assert not run.out_of_time
    run.restore(state)
    assert 0.8 <= run.time_used < 0.9
    run.restore({**state, "elapsed_s": 50.0})
    assert run.out_of_time


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """A file that came from a host may be anything: one that would run a command is refused."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"model": Hostile()}, tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit, match=r"checkpoint\.pt is no checkpoint that can be read safely$"):
        load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    """A checkpoint that is not there, or half, or no checkpoint; a folder for outputs that cannot be one."""
    (tmp_path / "text.pt").write_text("To be, or not to be")
    whole = Run(outputs=tmp_path / "outputs").save("checkpoint.pt", {"step": 1}).read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").touch()
    for name in ("text.pt", "half.pt", "empty.pt"):
        with pytest.raises(SystemExit, match=f"{name} is no checkpoint that can be read safely$"):
            load(tmp_path / name)
    with pytest.raises(SystemExit, match=r"the checkpoint nowhere\.pt cannot be read: No such file"):
        Run(outputs=tmp_path, resume="nowhere.pt").resume()
    with pytest.raises(SystemExit, match=r"the outputs folder .* cannot be made: Not a directory"):
        Run(outputs=tmp_path / "text.pt" / "outputs")
