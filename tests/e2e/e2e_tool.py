"""The `gpuctl` command as a person has it, for tests: run whole, in a process of its own, in a home of its own."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.request import ProxyHandler, Request, build_opener

from warm_gpuctl import Warm

from gpuctl.core.cloud_key import request_headers
from gpuctl.core.codec import loads
from gpuctl.workflows.clouds import EmbeddedCloud

GPUCTL = str(Path(sys.executable).parent / "gpuctl")

_ASKING = ("launch", "down")
_CLIENTS: dict[EmbeddedCloud, Any] = {}

TRAIN = """
import os, signal, sys, time

out = os.environ["GPUCTL_OUTPUTS"]
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
pause = float(sys.argv[2]) if len(sys.argv) > 2 else 0.02
step = 0
try:
    for step in range(1, steps + 1):
        print(f"step {step}  epoch {step / steps:.2f}  train loss {3 / step + 1:.4f}  val loss {3 / step + 1.1:.4f}")
        if step % 5 == 0:
            with open(f"{out}/checkpoint.pt.part", "wb") as file:
                file.write(step.to_bytes(4, "big") * 50_000)
            os.replace(f"{out}/checkpoint.pt.part", f"{out}/checkpoint.pt")
        time.sleep(pause)
except KeyboardInterrupt:
    print(f"saved at step {step}")
"""


@cache
def warm() -> Warm:
    """The process that this test process's commands are forks of."""
    return Warm()


@dataclass(frozen=True)
class Gpuctl:
    """The command, in a home of its own."""

    home: Path
    folder: Path
    environment: Mapping[str, str]
    yes: bool = True
    """Whether commands that ask for confirmation get `-y` where there is no terminal to ask at."""

    def __call__(self, *words: str, timeout: float = 240, code: int | None = 0, **extra: str) -> Answer:
        """Run a command as a person would. With `code`, that is the exit code it must have."""
        environment = {**self.environment, **extra}
        exit_code, out, err = warm().run(self._confirmed(words), cwd=self.folder, env=environment, timeout=timeout)
        answer = Answer(exit_code, out.decode(errors="replace"), err.decode(errors="replace"))
        assert code is None or answer.code == code, f"gpuctl {' '.join(words)}: {answer}"
        return answer

    def start(self, *words: str, **extra: str) -> subprocess.Popen[bytes]:
        """Begin a command and leave it running, in a session of its own, so that it can be interrupted or killed."""
        return subprocess.Popen(
            [GPUCTL, *self._confirmed(words)],
            cwd=self.folder,
            env={**self.environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _confirmed(self, words: Sequence[str]) -> list[str]:
        asks = self.yes and words[:1] and words[0] in _ASKING
        return [words[0], "-y", *words[1:]] if asks else [*words]

    def json(self, *words: str, **options: Any) -> Any:
        """What a command answers in JSON."""
        at = words.index("--") if "--" in words else len(words)
        return json.loads(self(*words[:at], "--json", *words[at:], **options).out)

    def cloud(self) -> EmbeddedCloud:
        """The embedded cloud."""
        return loads((self.home / "state/cloud/cloud.json").read_bytes(), EmbeddedCloud)

    def endpoint(self) -> str:
        """Where the embedded cloud's API is."""
        return self.cloud().endpoint

    def on_a_terminal(self, *words: str, timeout_s: float = 60, typed: bytes = b"", **extra: str) -> tuple[int, bytes]:
        """Run a command on a terminal of its own: its exit code, and every byte that reached the terminal."""
        ours, its = os.openpty()
        process = subprocess.Popen(
            [GPUCTL, *words],
            cwd=self.folder,
            env={**self.environment, "TERM": "xterm-256color", "COLUMNS": "120", **extra},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        os.write(ours, typed)
        seen, end = b"", time.monotonic() + timeout_s
        try:
            while select.select([ours], [], [], max(0.0, end - time.monotonic()))[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # on Linux the end of a terminal whose last process has gone
                    break
                if not piece:
                    break
                seen += piece
            else:
                process.kill()
            return process.wait(timeout=10), seen
        finally:
            os.close(ours)

    def fault(self, **values: Any) -> None:
        """Have the embedded cloud misbehave (its own `POST /gpuctl/faults`)."""
        self._cloud("POST", "faults", json.dumps(values).encode())

    def no_faults(self) -> None:
        """Have it behave again."""
        self._cloud("DELETE", "faults")

    def forget_calls(self) -> None:
        """Have it count calls from here."""
        self._cloud("DELETE", "calls")

    def befall(self, instance_id: str, word: str) -> None:
        """Have AWS `retire` or `reboot` an embedded host; have it `freeze`, go deaf (`deafen`), `fill` up or `heal`."""
        self._cloud("POST", f"hosts/{instance_id}/{word}")

    def calls(self) -> list[dict[str, Any]]:
        """The AWS calls that it has counted."""
        return list(json.loads(self._cloud("GET", "calls"))["calls"])

    def _cloud(self, method: str, path: str, body: bytes | None = None) -> bytes:
        cloud = self.cloud()
        url = f"{cloud.endpoint}/gpuctl/{path}"
        request = Request(url, data=body, method=method, headers=request_headers(cloud.key, method, url))
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            assert answer.status in (200, 201)
            return bytes(answer.read())

    def ec2(self) -> Any:
        """A client that gpuctl knows nothing of, made from the exports of `gpuctl cloud env`."""
        cloud = self.cloud()
        if cloud not in _CLIENTS:
            import boto3

            lines = self("cloud", "env").out.splitlines()
            exports = dict(line.removeprefix("export ").split("=", 1) for line in lines)
            _CLIENTS[cloud] = boto3.client(
                "ec2",
                endpoint_url=exports["AWS_ENDPOINT_URL"],
                region_name=exports["AWS_REGION"],
                aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
            )
        return _CLIENTS[cloud]


@dataclass(frozen=True)
class Inside(Gpuctl):
    """The same command line, run within this very process: a hundred refusals take seconds."""

    def __call__(self, *words: str, timeout: float = 240, code: int | None = 0, **extra: str) -> Answer:
        """Run a command; nothing of it can be interrupted, so `timeout` is pytest's own."""
        from gpuctl.cli.main import run

        out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
        os.chdir(self.folder)
        try:
            with (
                mock.patch.dict(os.environ, {**self.environment, **extra}, clear=True),
                open(os.devnull) as nothing,
                mock.patch.object(sys, "stdin", nothing),
                redirect_stdout(out),
                redirect_stderr(err),
            ):
                answer = Answer(run(self._confirmed(words)), out.getvalue(), err.getvalue())
        finally:
            os.chdir(before)
        assert code is None or answer.code == code, f"gpuctl {' '.join(words)}: {answer}"
        return answer


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str


def the_error(answer: Answer) -> str:
    """The one line of standard error that tells an error, its last: `gpuctl: what happened, to what; what next`."""
    lines = answer.err.rstrip("\n").split("\n")
    assert [line for line in lines if line.startswith("gpuctl: ")] == lines[-1:], answer.err
    assert "Traceback" not in answer.err and "Traceback" not in answer.out
    assert lines[-1].isprintable() and "unexpected" not in lines[-1], lines[-1]
    return lines[-1].removeprefix("gpuctl: ")


def in_account(ec2: Any) -> dict[str, list[str]]:
    """Everything in the account that costs or belongs to a run, by kind; empty where there is nothing."""
    held = ec2.describe_instances()["Reservations"]
    found = {
        "instances": [i["InstanceId"] for r in held for i in r["Instances"] if i["State"]["Name"] != "terminated"],
        "groups": [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]],
        "templates": [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]],
        "volumes": [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]],
    }
    found["groups"].remove("default")
    return {kind: ids for kind, ids in found.items() if ids}


def assert_nothing_runs(home: Path, within_s: float = 10) -> None:
    """No process of the embedded cloud or its hosts: none has this home in its words or its environment."""
    end = time.monotonic() + within_s
    while left := processes_of(home):
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.1)


def processes_of(home: Path) -> dict[int, str]:
    """The processes that have a path in their words or environment, but this one and those that are gone."""
    needle, found = os.fsencode(home), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            if words and (needle in words or needle in (entry / "environ").read_bytes()):
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")[:120]
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], Any], *, within_s: float = 30, what: str = "it") -> Any:
    """The first true answer. Fails the test where none comes in time."""
    end = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {within_s:.0f} s"
        time.sleep(0.1)
    return answer
