"""How long until a network foresees Shakespeare with 1.88 nats a character: `char_rnn` beside nanoGPT's CPU setting.

    git clone https://github.com/karpathy/nanoGPT
    python -m benchmarks.char_rnn_vs_nanogpt --nanogpt nanoGPT --text tinyshakespeare.txt

``--text`` is `data/tinyshakespeare/input.txt` of https://github.com/karpathy/char-rnn. Ours runs first, then nanoGPT
as its README says for a computer without a GPU, on the same cores; ours with the settings of `OUR_SETTING`, for so
short a run: a smaller network, one validation. Both are clocked from the command's start:
nanoGPT until it prints a validation loss that low, or to its end; ours to its end, with a time limit of
``--seconds``, with test loss, sample and picture. Both losses are on the same last tenth of the text. Prints a table;
with ``--write`` it goes into `benchmarks/char_rnn_vs_nanogpt.md` too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOAL = 1.88
# The line of its README for "cheap computers".
NANOGPT_SETTING = [
    *("train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20"),
    *("--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128"),
    *("--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0"),
]

OUR_SETTING = ["--preset", "laptop", "--hidden", "192", "--sample", "50", "--eval-every", "100000"]


@dataclass(frozen=True)
class Timing:
    """Seconds from the start of the command, and the loss on the last tenth at that moment."""

    seconds: float
    loss: float


def time_nanogpt(checkout: Path, text: Path) -> tuple[Timing, Timing]:
    """Run it in a copy. When it was at the goal (or, never there, at its end), and its end."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(checkout, Path(folder, "nanoGPT"), ignore=shutil.ignore_patterns(".git"))
        data = copy / "data" / "shakespeare_char"
        shutil.copy(text, data / "input.txt")
        subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-u", *NANOGPT_SETTING],
            cwd=copy,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        points = [
            Timing(time.monotonic() - began, float(found[1]))
            for line in process.stdout
            if (found := re.match(r"step \d+: .*val loss ([\d.]+)", line))
        ]
        if process.wait() or not points:
            raise SystemExit(f"nanoGPT ended with {process.returncode} and {len(points)} losses")
        end = Timing(time.monotonic() - began, points[-1].loss)
        return next((point for point in points if point.loss <= GOAL), end), end


def time_ours(text: Path, seconds: float) -> Timing:
    """One whole run of ours: how long the command took, and its test loss."""
    with tempfile.TemporaryDirectory() as folder:
        options = [*OUR_SETTING, "--data", str(text), "--max-seconds", str(seconds), "--outputs", folder]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "jobs.char_rnn.train", *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        took = time.monotonic() - began
        points = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        return Timing(took, next(point["loss"] for point in points if point["split"] == "test"))


def table(ours: Timing, reached: Timing, end: Timing) -> str:
    """What was seen, as Markdown."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    there = f"{reached.seconds:.1f} s ({reached.loss:.3f})" if reached.loss <= GOAL else "not in this run"
    how = f"char_rnn is there in a {reached.seconds / ours.seconds:.1f}× shorter time"
    if reached.loss > GOAL:
        how += ", counted to the end of nanoGPT's run, which did not reach it"
    return "\n".join(
        [
            f"{datetime.now(timezone.utc):%Y-%m-%d}, commit {commit}, {os.cpu_count()} cores, {platform.machine()}",
            "",
            f"| last tenth of tiny Shakespeare | time to {GOAL} nats a character | at the end |",
            "| --- | --- | --- |",
            f"| nanoGPT, its CPU setting | {there} | {end.loss:.3f} after {end.seconds:.1f} s |",
            f"| char_rnn, whole command | {ours.seconds:.1f} s ({ours.loss:.3f}) | |",
            "",
            f"{how}." if ours.loss <= GOAL else "char_rnn did not reach it.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="tiny Shakespeare")
    parser.add_argument("--seconds", type=float, default=10, help="the time limit of our run (10)")
    parser.add_argument("--write", action="store_true", help="keep the table beside this program")
    given = parser.parse_args()
    for path in (given.nanogpt / "train.py", given.text):
        if not path.is_file():
            parser.error(f"there is no {path}")
    ours = time_ours(given.text.resolve(), given.seconds)
    print(f"char_rnn: {ours.loss:.4f} after {ours.seconds:.1f} s; now nanoGPT, some minutes", flush=True)
    seen = table(ours, *time_nanogpt(given.nanogpt.resolve(), given.text.resolve()))
    print(seen)
    if given.write:
        title = (
            "# Time to 1.88: char_rnn and nanoGPT\n\nMade by `python -m benchmarks.char_rnn_vs_nanogpt`, as it says."
        )
        Path(__file__).with_suffix(".md").write_text(f"{title}\n\n{seen}\n")


if __name__ == "__main__":
    main()
