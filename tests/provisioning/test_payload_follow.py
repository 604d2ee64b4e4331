"""`follow`: the log and the metrics as they grow, from any offset, to the end."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from payload_host import Host, wait_for

from provisioning.follow import Tail


class Follower:
    """A `follow` in progress; its events with the moment that each came."""

    def __init__(
        self, host: Host, log: int = 0, metrics: int = 0, *, until_end: bool = True, **more: str | bool | None
    ) -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.process: subprocess.Popen[bytes] = host.open("follow")
        assert self.process.stdin is not None
        request = {"schema": 1, "log_offset": log, "metrics_offset": metrics, "until_end": until_end, **more}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.close()
        self.process.stdin = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append((time.time(), json.loads(line)))

    def named(self, event: str) -> Iterator[dict[str, Any]]:
        return (found for _, found in list(self.events) if found["event"] == event)

    def data(self, event: str = "log") -> bytes:
        return b"".join(base64.b64decode(found["data"]) for found in self.named(event))

    def finish(self) -> dict[str, Any]:
        self._reader.join(30)
        assert self.process.wait(30) == 0
        return self.events[-1][1]


def test_all_of_it_to_the_end(host: Host) -> None:
    """Log and metrics come whole and in order, then how the run ended."""
    script = """
import json, os, time
with open(os.environ["GPUCTL_METRICS"], "a") as metrics:
    for step in range(30):
        print("step", step, flush=True)
        metrics.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n"); metrics.flush()
        time.sleep(0.02)
os.write(1, b"\\xff\\x00 no newline")
"""
    host.provision(["python", "t.py"], {"t.py": script.encode()})
    follower = Follower(host)
    host.start()
    end = follower.finish()
    assert (end["event"], end["state"]["state"]) == ("end", "succeeded")
    assert follower.data() == host.log
    assert follower.data("metrics") == (host.root / "run/metrics.jsonl").read_bytes()
    offset = 0
    for event in follower.named("log"):
        assert event["offset"] == offset
        offset += len(base64.b64decode(event["data"]))


def test_what_is_printed_comes_at_once(host: Host) -> None:
    """From a line's printing to its event it takes 100 ms at most, by the median of twenty lines."""
    host.train("import time\nfor _ in range(20):\n    print(repr(time.time()), flush=True)\n    time.sleep(0.13)")
    follower = Follower(host)
    follower.finish()
    late = []
    for at, event in follower.events:
        if event["event"] == "log":
            lines = base64.b64decode(event["data"]).split()
            late += [at - float(line) for line in lines[-1:]]
    late = sorted(late[1:])
    assert len(late) > 8
    assert late[len(late) // 2] <= 0.1


def test_a_broken_connection_goes_on_by_offset(host: Host) -> None:
    """Wherever the first call was cut, what the second sends is the rest."""
    host.train("import time\nfor i in range(40):\n    print('line', i, flush=True)\n    time.sleep(0.03)")
    first = Follower(host)
    wait_for(lambda: len(first.data()) > 40)
    first.process.kill()
    first._reader.join()
    had = first.data()
    second = Follower(host, log=len(had))
    second.finish()
    assert had + second.data() == host.log


def test_metrics_come_in_whole_lines(host: Host) -> None:
    """A line that is half written waits for its other half; one that never gets it does not come."""
    script = """
import os, time
with open(os.environ["GPUCTL_METRICS"], "ab", buffering=0) as metrics:
    metrics.write(b'{"step": 1}\\n{"st'); print("half", flush=True); time.sleep(1)
    metrics.write(b'ep": 2}\\n{"step"'); print("done", flush=True); time.sleep(0.3)
"""
    host.train(script)
    follower = Follower(host)
    follower.finish()
    pieces = [base64.b64decode(event["data"]) for event in follower.named("metrics")]
    assert b"".join(pieces) == b'{"step": 1}\n{"step": 2}\n'
    assert all(piece.endswith(b"\n") for piece in pieces)


def test_only_what_there_is(host: Host) -> None:
    """With `until_end` false the answer ends though training goes on."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(60)")
    follower = Follower(host, until_end=False)
    assert follower.finish()["state"]["state"] == "running"
    assert follower.data() == b"up\n"
    host.call("stop", grace_s=1)


def test_before_anything_was_started(host: Host) -> None:
    """There is nothing, and that is an answer."""
    follower = Follower(host, until_end=False)
    assert follower.finish()["state"]["state"] == "none"


def test_silence_is_told_apart_from_a_dead_host(host: Host) -> None:
    """At least every five seconds something comes."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(60)")
    follower = Follower(host)
    wait_for(lambda: list(follower.named("alive")))
    host.call("stop", grace_s=1)
    follower.finish()


def test_how_the_gpus_are_used_comes_along(host: Host) -> None:
    """Where `nvidia-smi` takes its time the log does not wait; nobody who does not ask is told."""
    host.stand_in("nvidia-smi", "sleep 4\necho 'NVIDIA A10G, 97, 8011, 23028'")
    host.train("import time\nprint('up', flush=True)\ntime.sleep(60)")
    does_not = Follower(host)
    wait_for(does_not.data)
    asks = Follower(host, gpus=True)
    wait_for(asks.data)
    assert not list(asks.named("gpus"))
    (gpu,) = wait_for(lambda: list(asks.named("gpus")))[0]["gpus"]
    assert gpu["utilization_percent"] == 97 and gpu["memory_total_mib"] == 23028
    host.call("stop", grace_s=1)
    asks.finish()
    does_not.finish()
    assert not list(does_not.named("gpus"))


def test_following_costs_little(host: Host) -> None:
    """A follower that has nothing to send looks some thirty times a second, and sleeps in between."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(60)")
    follower = Follower(host)
    wait_for(lambda: follower.data())
    before, began = sleeps(follower.process.pid), time.monotonic()
    wait_for(lambda: sleeps(follower.process.pid) - before >= 20)
    assert (sleeps(follower.process.pid) - before) / (time.monotonic() - began) < 60
    host.call("stop", grace_s=1)
    follower.finish()


def sleeps(pid: int) -> int:
    """How often the process has gone to sleep so far: a loop that does not sleep never adds to it."""
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_follower_whose_laptop_has_gone_ends(host: Host) -> None:
    """Nobody reads: the next word ends it, without a trace on standard error."""
    host.train("import time\nfor i in range(1000): print(i, flush=True); time.sleep(0.05)")
    process = host.open("follow")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b'{"schema": 1, "until_end": true}\n')
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(10) == 1
    assert process.stderr.read() == b""
    host.call("stop", grace_s=2)


def test_an_offset_past_the_end_starts_again(host: Host) -> None:
    """A log that is another one, shorter, is sent from its beginning."""
    host.train("print('short')")
    host.wait_until_over()
    follower = Follower(host, log=10_000, metrics=10_000)
    follower.finish()
    assert follower.data() == b"short\n"


def test_a_copy_that_is_not_how_the_file_begins_is_told(host: Host) -> None:
    """With the hash of what the laptop has: the rest where it is the same, else `differs` and all of it."""
    host.train("print('a' * 3_000_000)")
    host.wait_until_over()
    log = host.log
    for had, same in ((log[:2_500_000], True), (log[:1_000_000] + bytes(1_500_000), False), (log + b"more", True)):
        follower = Follower(host, log=len(had), log_sha256=hashlib.sha256(had).hexdigest(), metrics_sha256=None)
        follower.finish()
        assert [event["file"] for event in follower.named("differs")] == ([] if same else ["log"])
        assert follower.data() == (log[len(had) :] if same and len(had) < len(log) else log)


def test_a_file_that_is_truncated_starts_again(tmp_path: Path) -> None:
    """While it is followed, too."""
    path = tmp_path / "log"
    path.write_bytes(b"one two three")
    tail = Tail(path, 0)
    tail.offset += len(tail.read(100))
    path.write_bytes(b"four")
    assert tail.read(100) == b"four"
    assert tail.offset == 0


def test_a_line_longer_than_a_chunk_is_whole(tmp_path: Path) -> None:
    """A metrics line of half a megabyte comes in one piece."""
    path = tmp_path / "metrics"
    path.write_bytes(b"x" * (1 << 19) + b"\n" + b"y")
    assert Tail(path, 0).lines() == b"x" * (1 << 19) + b"\n"
