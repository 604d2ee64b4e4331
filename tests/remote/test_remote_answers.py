"""What a host says beside a stream is waited for as long as this laptop is awake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

WAITS = """
import json, sys
from gpuctl.core.errors import HostError
from gpuctl.remote.answers import Answers
from gpuctl.remote.host import Streams

class Session:
    def events(self, *, read):
        while line := read():
            yield json.loads(line)
    def close(self):
        pass

class Lines:
    read = sys.stdin.buffer.readline

answers = Answers(Streams(None, Lines, Session()), "toy", ["model.pt"], answer_within_s=float(sys.argv[1]))
print("waits", flush=True)
try:
    print(answers.sent("model.pt").path, flush=True)
except HostError as error:
    print(error.message, flush=True)
"""


@pytest.mark.parametrize(("within_s", "stopped_s"), [(6.0, 7.0), (1.5, 0.0)], ids=["stopped", "awake"])
def test_a_laptop_that_was_stopped_does_not_take_that_for_the_hosts_silence(within_s: float, stopped_s: float) -> None:
    """Ctrl-Z or a closed lid for longer than the host has to answer: it is heard afterwards. Awake, silence is told."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS, str(within_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as waits:
        assert waits.stdin is not None and waits.stdout is not None
        assert waits.stdout.readline() == b"waits\n"
        if stopped_s:
            os.kill(waits.pid, signal.SIGSTOP)
            time.sleep(stopped_s)
            os.kill(waits.pid, signal.SIGCONT)
            time.sleep(0.2)
            sent = {"event": "sent", "path": "model.pt", "size": 1, "sha256": "0" * 64, "whole": True}
            waits.stdin.write(json.dumps(sent).encode() + b"\n")
            waits.stdin.flush()
        said = waits.stdout.readline().decode().strip()
        waits.kill()
    assert said == ("model.pt" if stopped_s else "toy did not say whether a file arrived intact")
