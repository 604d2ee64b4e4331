"""What a packaged job's smoke preset takes, beside importing torch, and its optimizers, beside its network."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from itertools import count
from pathlib import Path

from benchmarks.bench_tools import Part, medians

ROOT = Path(__file__).parents[1]
LIMIT_S = 10.0
"""So many seconds of processor the smoke preset may take on the machine that these pages are made on."""

STEP = """
import time, torch
from jobs.char_rnn.train import PRESETS, make_learners

def seconds(do):
    began = time.thread_time()
    do()
    return time.thread_time() - began

torch.set_num_threads(1)
s = PRESETS["laptop"]
[learner] = make_learners(s, 79, device=torch.device("cpu"), seed=1)
ids = torch.randint(79, (s.sequence + 1, s.batch))
learn = lambda: learner.threads.submit(seconds, lambda: learner._learn(1, 0, ids[:-1], ids[1:])).result()
learner.step(ids[:-1], ids[1:], number=1, pace=1.0)
optimize = lambda: seconds(lambda: [optimizer.step() for optimizer in learner.optimizers])
print(*(min(do() for _ in range(8)) for do in (learn, optimize)))
"""
"""Prints the seconds of processor that a step's network takes, and its optimizers: the least of some."""


def measure(folder: Path, rounds: int) -> Part:
    """Whole processes on one thread, interleaved."""
    spent: list[float] = []
    numbers = count()

    def smoke() -> None:
        words = ["-m", "jobs.char_rnn.train", "--preset", "smoke", "--threads", "1"]
        spent.append(_processor_s([*words, "--outputs", str(folder / f"smoke-{next(numbers)}")]))

    took = medians(rounds, {"`import torch`": lambda: _processor_s(["-c", "import torch"]), "`char_rnn`, smoke": smoke})
    bare = took["`import torch`"]
    lines = ["| whole process | median | ratio |", "| --- | --- | --- |"]
    lines += [f"| {name} | {seconds:.1f} s | {seconds / bare:.1f}× |" for name, seconds in took.items()]
    verdict = "held" if min(spent) <= LIMIT_S else "MISSED"
    lines += ["", f"The smoke preset may take {LIMIT_S:.0f} s of processor; it took {min(spent):.1f} s: {verdict}."]
    network, optimizers = (float(word) for word in _output(["-c", STEP]).split())
    lines += [
        "",
        f"A step of `char_rnn`'s laptop preset, on one thread: the network {network * 1000:.0f} ms, its optimizers "
        f"{optimizers * 1000:.0f} ms. They may take as long as it: {'held' if optimizers <= network else 'MISSED'}.",
    ]
    return Part("A job's smoke preset, and its steps", lines)


def _processor_s(words: list[str]) -> float:
    """Run Python on one thread; the seconds of processor that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _output(words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _output(words: list[str]) -> str:
    """Run Python on one thread; what it prints."""
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=one, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return done.stdout.decode()
