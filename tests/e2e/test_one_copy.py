"""A run's log and metrics at home are the host's, byte for byte, whoever follows, dies, leaves or damages them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from e2e_tool import GPUCTL, Gpuctl, wait_for

LOUD = """
import json, os, time
with open(os.environ["GPUCTL_METRICS"], "a") as metrics:
    for step in range(1, 601):
        print(*(f"step {step} line {line} " + "x" * 300 for line in range(20)), sep="\\n", flush=True)
        metrics.write(json.dumps({"step": step, "split": "train", "loss": 1 + 1 / step, "why": "y" * 900}) + "\\n")
        metrics.flush()
        time.sleep(0.01)
"""
"""Some megabytes of log and 600 points, in at least six seconds: more than a pipe that nobody reads takes."""


@dataclass(frozen=True)
class Copies:
    """The files of one run: here, and on its host."""

    here: Path
    there: Path

    def same(self) -> dict[str, bool]:
        return {name: self.read(name) == (self.there / name).read_bytes() for name in ("log", "metrics.jsonl")}

    def read(self, name: str) -> bytes:
        path = self.here / name
        return path.read_bytes() if path.exists() else b""


SAME = {"log": True, "metrics.jsonl": True}


@pytest.fixture(scope="module")
def loud(shared: Gpuctl) -> Iterator[Copies]:
    """A run that prints much, followed to its end by one process while others come and go."""
    project = shared.folder / "loud"
    project.mkdir()
    (project / "train.py").write_text(LOUD)
    shared("launch", str(project), "--name", "loud", "-d", "--", "python", "train.py")
    (instance,) = (row["instance_id"] for row in shared.json("ls")["runs"][0]["hosts"])
    yield Copies(shared.home / "state/runs/loud/hosts/0", shared.home / f"state/cloud/hosts/{instance}/home/gpuctl/run")
    shared("down", "loud", "-y", "--discard")


@pytest.fixture
def whole(loud: Copies, shared: Gpuctl) -> Copies:
    """The same, once the host's files grow no more."""
    wait_for(lambda: shared.json("status", "loud")["state"] == "succeeded", within_s=120)
    return loud


def test_readers_that_die_or_leave_make_no_hole(loud: Copies, shared: Gpuctl, tmp_path: Path) -> None:
    """One is killed in the middle, one reads a screen and goes, one reads on to the end: nothing is lost or doubled."""

    def tail(to: int | IO[bytes]) -> subprocess.Popen[bytes]:
        words = [GPUCTL, "tail", "loud", "-n", "100000"]
        return subprocess.Popen(words, env=shared.environment, stdout=to, stderr=subprocess.PIPE)

    with (
        (tmp_path / "printed").open("wb") as printed,
        tail(subprocess.DEVNULL) as killed,
        tail(subprocess.PIPE) as leaves,
        tail(printed) as stays,
    ):
        assert leaves.stdout is not None and leaves.stdout.readline()
        wait_for(lambda: len(loud.read("log")) > 500_000, what="half a megabyte of log")
        os.kill(killed.pid, signal.SIGKILL)
        leaves.stdout.read(200_000)
        time.sleep(1)
        leaves.stdout.read(200_000)
        leaves.stdout.close()
        leaves.stdout = None
        while stays.poll() is None:
            here = loud.read("log")
            assert (loud.there / "log").read_bytes().startswith(here), "the copy is no beginning of the host's log"
            time.sleep(0.05)
        said = [process.communicate(timeout=120)[1] for process in (killed, leaves, stays)]
    assert (leaves.returncode, stays.returncode) == (0, 0) and b"Traceback" not in b"".join(said)
    assert loud.same() == SAME
    assert (tmp_path / "printed").read_bytes() == (loud.there / "log").read_bytes()
    assert len(shared("metrics", "loud", "--json").out.splitlines()) == 600


def _holes(data: bytes) -> bytes:
    return data[:1000] + bytes(5000) + data[6000:]


def _longer(data: bytes) -> bytes:
    return data + bytes(1000)


@pytest.mark.parametrize("of_log, of_metrics", [(_holes, _longer), (_longer, _holes)])
def test_a_damaged_copy_is_noticed_and_fetched_again(
    whole: Copies, shared: Gpuctl, of_log: Callable[[bytes], bytes], of_metrics: Callable[[bytes], bytes]
) -> None:
    """The next command that asks the host puts both files right, and what it answers is the host's."""
    for name, damaged in (("log", of_log), ("metrics.jsonl", of_metrics)):
        (whole.here / name).write_bytes(damaged((whole.there / name).read_bytes()))
    points = [json.loads(line) for line in shared("metrics", "loud", "--json").out.splitlines()]
    assert [point["step"] for point in points] == list(range(1, 601))
    assert whole.same() == SAME


def test_the_last_lines_of_a_damaged_copy_are_the_hosts(whole: Copies, shared: Gpuctl) -> None:
    """`tail --no-follow` shows what the host has, and says that the copy was not it."""
    (whole.here / "log").write_bytes(bytes(len(whole.read("log"))))
    answer = shared("tail", "loud", "-n", "20", "--no-follow")
    assert answer.out.startswith("step 600 line 0 ") and len(answer.out.splitlines()) == 20
    assert "fetching it again" in answer.err
    assert whole.same() == SAME


def test_a_full_disk_ends_nothing_and_leaves_no_hole(whole: Copies, shared: Gpuctl) -> None:
    """Where no more can be written, one line says so and the log goes on; later the rest is fetched."""
    for name in SAME:
        (whole.here / name).unlink()
    words = f"ulimit -f 200; exec '{GPUCTL}' tail loud -n 100000"
    done = subprocess.run(
        ["sh", "-c", words], env=shared.environment, capture_output=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0 and done.stdout == (whole.there / "log").read_bytes()
    assert done.stderr.count(b"cannot be saved here (File too large); the host has them") == 1
    assert 0 < len(whole.read("log")) <= 400 * 1024
    assert (whole.there / "log").read_bytes().startswith(whole.read("log"))
    shared("tail", "loud", "--no-follow")
    assert whole.same() == SAME
