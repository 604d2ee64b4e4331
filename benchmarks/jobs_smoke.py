"""What a packaged job's smoke preset takes, beside what importing torch takes."""

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
    return Part("A job's smoke preset", lines)


def _processor_s(words: list[str]) -> float:
    """Run Python on one thread; the seconds of processor that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=one, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stderr.decode(errors='replace')}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
