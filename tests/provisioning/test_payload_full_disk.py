"""A full disk on the host: what reads or signals goes on, every end is written down, who cannot go on says so."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from payload_host import Host, wait_for

from provisioning.paths import Paths, reserve, write_json

MIB = 1 << 20

FILLS = """
import os, time
print("up", flush=True)
while not os.path.getsize("../run/log"):
    time.sleep(0.05)
with open("outputs/all", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        print("full", flush=True)
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            raise SystemExit(0)
"""


@pytest.fixture
def small(host: Host) -> Iterator[Host]:
    """A host whose `~/gpuctl` is on a disk of 2 MiB, where this machine lets one be mounted in a namespace."""
    host.root.mkdir()
    words = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    mount = f"mount -t tmpfs -o size=2m,mode=700 tmpfs {shlex.quote(str(host.root))} && echo ready && exec sleep 600"
    try:
        holder = host.spawn([*words, "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        pytest.skip("no `unshare` here")
    assert holder.stdout is not None
    if holder.stdout.readline() != b"ready\n":
        pytest.skip("this machine lets nothing be mounted")
    enter = ["nsenter", "-t", str(holder.pid), "-m"] + ([] if os.geteuid() == 0 else ["-U", "--preserve-credentials"])
    wrapper = host.stand_ins / "python-in-there"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([*enter, sys.executable])} "$@"\n')
    wrapper.chmod(0o755)
    host.python = str(wrapper)
    yield host
    inside(host, "tmux kill-server 2>/dev/null; true")  # in there its user is root, whose server is another


def inside(host: Host, script: str) -> str:
    """What a shell says on that host."""
    holder = f'import subprocess, sys; sys.exit(subprocess.run(["sh", "-c", {script!r}]).returncode)'
    done = subprocess.run([host.python, "-c", holder], env=host.environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_full_disk_ends_nothing_that_needs_none(small: Host) -> None:
    """While training runs on a full disk it is looked at, followed and stopped, and comes home with a receipt."""
    small.provision(["python", "t.py"], {"t.py": FILLS.encode()}, idle_s=3600)
    inside(small, "cat /dev/zero >~/gpuctl/fill; true")
    code, events = small.try_call("start")
    assert (code, events[-1]["event"]) == (1, "error")
    assert events[-1]["message"] == "start failed: the host's disk is full"
    inside(small, "rm ~/gpuctl/fill")
    assert small.start()["state"] == "running"

    def log() -> bytes:
        import base64

        events = small.call("follow", log_offset=0, metrics_offset=0, until_end=False)
        return b"".join(base64.b64decode(e["data"]) for e in events if e["event"] == "log")

    wait_for(lambda: "100%" in inside(small, "df ~/gpuctl"))
    assert log().startswith(b"up\n")
    assert small.state()["state"] == "running"
    stopped = small.call("stop", grace_s=20)[-1]
    assert (stopped["state"], stopped["exit_code"]) == ("stopped", 0)
    assert small.call("manifest")[-1]["state"]["state"] == "stopped"
    assert small.call("receipt", files=1, bytes=1, at=1.0, over=True)[-1]["final"] is True
    at: Any = small.state()["power_off_at"]
    assert at is not None and at > time.time() + 60
    small.call("receipt", files=1, bytes=1, at=2.0)  # the room that was kept for it is used
    assert small.state()["receipt"]["at"] == 2.0


def test_a_training_that_dies_of_a_full_disk_is_told_as_that(small: Host) -> None:
    """Its exit code is what it was, and the reason stands beside it."""
    small.train("print('up', flush=True)\nopen('outputs/m.pt', 'wb').write(bytes(10 ** 7))", idle_s=3600)
    over = wait_for(lambda: (state := small.state())["state"] == "failed" and state)
    assert over["exit_code"] == 1
    assert over["why"] == "the host's disk ran full (0.0 GiB)"


def test_room_that_is_kept_is_written_into(tmp_path: Path) -> None:
    """A file in its reserve reads as it would have otherwise, once and again, and what is too large is refused."""
    paths = Paths(root=tmp_path, environments=tmp_path / "envs")
    reserve(paths)
    for name in ("1/.exit.json.reserve", "1/.stop.json.reserve", ".power-off-at.reserve"):
        assert (paths.run / name).read_bytes() == b" " * 4096
    write_json(paths.exit, {"state": "failed"})
    assert paths.exit.read_text() == '{"state": "failed"}'
