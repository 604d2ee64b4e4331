"""Launches that end before training starts, whatever ends them and however AWS answers: nothing is left.

The hosts here never answer (they are no SSH servers), so that a launch always ends before its start; the cloud is as
slow to know of what it made as EC2 may be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import GPUCTL, Answer, Gpuctl, in_account, the_error, wait_for

END_S = 150
"""How long a launch may take to undo itself, before the test says that it hangs."""

HOST = [
    sys.executable,
    str(Path(__file__).parent.parent / "embedded_cloud/stand_in_host.py"),
    "gpuctl.embedded_cloud.host",
]
CREATES = ("CreateSecurityGroup", "CreateLaunchTemplate", "CreateFleet")
SLOW = {"CreateFleet": 2.0, "CreateLaunchTemplate": 1.0, "CreateSecurityGroup": 1.0}
SLOWEST = {"CreateFleet": 10.0, "CreateLaunchTemplate": 5.0, "CreateSecurityGroup": 5.0}
"""For how many seconds EC2 does not know what these made: in `make test`, and in the proof."""


@dataclass
class Launching:
    """A `gpuctl launch` in a process of its own."""

    process: subprocess.Popen[bytes]
    name: str
    said: list[bytes]

    def ended(self) -> Answer:
        """How it ended."""
        out, err = self.process.communicate(timeout=END_S)
        return Answer(self.process.returncode, (out or b"").decode(), (err or b"".join(self.said)).decode())


class Slow:
    """An embedded cloud of hosts that never answer, and `gpuctl launch` against it."""

    def __init__(self, tool: Gpuctl, project: Path) -> None:
        self.tool, self.project, self.count, self.ec2 = tool, project, 0, tool.ec2()
        self.processes: list[subprocess.Popen[bytes]] = []

    def words(self) -> tuple[str, ...]:
        """A launch's words, under a name of its own."""
        self.count += 1
        return ("launch", str(self.project), "--name", f"undo-{self.count}", "-d", "-y", "--", "python", "train.py")

    @property
    def name(self) -> str:
        """The name of the last launch."""
        return f"undo-{self.count}"

    def unseen(self, seconds: dict[str, float]) -> None:
        """What is made is not seen for a while from now on."""
        for operation, unseen_s in seconds.items():
            self.tool.fault(operation=operation, unseen_s=unseen_s, times=-1)

    def calls(self) -> list[str]:
        """The operations that were called so far."""
        return [call["operation"] for call in self.tool.calls()]

    def start(self, **streams: Any) -> Launching:
        """Begin a launch."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        process = subprocess.Popen(
            [GPUCTL, *self.words()],
            cwd=self.tool.folder,
            env=dict(self.tool.environment),
            start_new_session=True,
            **options,
        )
        self.processes.append(process)
        return Launching(process, self.name, [])

    def until_called(self, operation: str) -> None:
        """Until this launch has called an operation. (The count begins anew with each.)"""
        wait_for(lambda: operation in self.calls(), within_s=60, what=operation)

    def begin_count(self) -> None:
        """Count calls from here."""
        self.tool.forget_calls()

    def assert_nothing(self, what: str) -> None:
        """Neither in the account, nor on the laptop: nor later, when EC2 knows of everything."""
        self.tool.no_faults()
        assert in_account(self.ec2) == {}, what
        assert not (self.tool.home / "state/runs" / self.name / "run.json").exists(), what


@pytest.fixture(scope="module")
def cloud(shared_own_cloud: Gpuctl) -> Slow:
    """The module's cloud, whose hosts never answer."""
    tool = shared_own_cloud
    state, project = tool.home / "state/cloud", tool.folder / "project"
    for folder in (state, project):
        folder.mkdir(parents=True)
    (project / "train.py").write_text("print(1)")
    words = ["start", "--state", str(state), "--host-command", json.dumps(HOST)]
    subprocess.run([sys.executable, "-m", "gpuctl.embedded_cloud", *words], check=True, capture_output=True, timeout=60)
    return Slow(tool, project)


@pytest.fixture
def slow(cloud: Slow) -> Iterator[Slow]:
    """Launches against it; in the end nothing of them is left."""
    cloud.begin_count()
    yield cloud
    for process in cloud.processes:
        if process.poll() is None:
            process.kill()
            process.communicate()
    cloud.processes.clear()
    cloud.tool.no_faults()
    if left := in_account(cloud.ec2):
        cloud.tool("down", "--all", "-y", "--discard", code=None)
        raise AssertionError(left)


def ctrl_c(launching: Launching) -> None:
    launching.process.send_signal(signal.SIGINT)


def ctrl_c_three_times(launching: Launching) -> None:
    for pause in (0, 0.05, 0.4):
        time.sleep(pause)
        launching.process.send_signal(signal.SIGINT)


def term_and_hup(launching: Launching) -> None:
    launching.process.send_signal(signal.SIGTERM)
    launching.process.send_signal(signal.SIGHUP)


def every_signal_all_the_time(launching: Launching) -> None:
    while launching.process.poll() is None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            launching.process.send_signal(number)
            time.sleep(0.02)


ENDS: dict[str, Callable[[Launching], None]] = {
    "Ctrl-C": ctrl_c,
    "three times Ctrl-C": ctrl_c_three_times,
    "SIGTERM and SIGHUP": term_and_hup,
    "every signal": every_signal_all_the_time,
}


prove = pytest.mark.prove


@pytest.mark.parametrize(
    ("end", "operation"),
    [
        pytest.param("SIGTERM and SIGHUP", "CreateFleet", marks=prove),
        ("every signal", "DescribeInstances"),
        pytest.param("three times Ctrl-C", "CreateLaunchTemplate", marks=prove),
        pytest.param("every signal", "CreateSecurityGroup", marks=prove),
    ],
)
def test_whatever_signals_come_nothing_is_left(slow: Slow, end: str, operation: str) -> None:
    """While EC2 knows nothing yet of what it made: the launch is undone, says so, and that is so."""
    slow.unseen(SLOW)
    launching = slow.start()
    slow.until_called("CreateFleet" if operation == "DescribeInstances" else operation)
    if operation == "DescribeInstances":
        time.sleep(0.3)
    ENDS[end](launching)
    answer = launching.ended()
    assert (answer.code, the_error(answer)) == (
        130,
        f"launch of {slow.name} interrupted; everything it had created is removed",
    )
    slow.assert_nothing(end)


@prove
def test_a_reader_that_goes_away_changes_nothing(slow: Slow) -> None:
    """`gpuctl launch … 2>&1 | tee`, and Ctrl-C ends tee too: what cannot be told is undone all the same."""
    slow.unseen(SLOW)
    reader, writer = os.pipe()
    launching = slow.start(stdout=writer, stderr=writer)
    os.close(writer)
    slow.until_called("CreateFleet")
    os.close(reader)
    ctrl_c(launching)
    assert launching.ended().code == 130
    slow.assert_nothing("a closed pipe")


def test_a_terminal_that_is_closed_ends_the_launch(slow: Slow) -> None:
    """Its window is closed: SIGHUP, and every byte that is written fails."""
    slow.unseen(SLOW)
    launching, ours = on_terminal(slow)
    slow.until_called("CreateFleet")
    os.close(ours)
    assert launching.process.wait(timeout=END_S) == 130
    slow.assert_nothing("a closed terminal")


def on_terminal(slow: Slow) -> tuple[Launching, int]:
    """A launch on a terminal of its own, which controls it."""
    ours, its = os.openpty()
    words = [sys.executable, "-c", TERMINAL, GPUCTL, *slow.words()]
    environment = {**slow.tool.environment, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(
        words, cwd=slow.tool.folder, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    slow.processes.append(process)
    os.close(its)
    threading.Thread(target=read_all, args=(ours,), daemon=True).start()
    return Launching(process, slow.name, []), ours


TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def read_all(descriptor: int) -> None:
    """Read a terminal until it is closed, so that nobody has to wait to write to it."""
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "TerminateInstances", "code": "InvalidInstanceID.NotFound"},
        {"operation": "TerminateInstances", "body": "page", "times": 4, "lost": True},
        pytest.param({"operation": "DescribeInstances", "body": "xhtml", "times": 4}, marks=prove),
        pytest.param({"operation": "DeleteSecurityGroup", "body": "empty"}, marks=prove),
        pytest.param({"operation": "DeleteLaunchTemplate", "code": "InvalidLaunchTemplateId.NotFound"}, marks=prove),
        pytest.param({"operation": "DescribeVolumes", "body": "page", "status": 502, "times": 4}, marks=prove),
        pytest.param({"operation": "DescribeSecurityGroups", "drop": True, "times": 4}, marks=prove),
    ],
    ids=lambda fault: "-".join(str(word) for word in fault.values()),
)
def test_an_undo_gets_over_what_aws_answers(slow: Slow, fault: dict[str, Any]) -> None:
    """Something that is no answer, or not found once: the undo asks again, and goes on with the rest."""
    launching = slow.start()
    slow.until_called("CreateFleet")
    wait_for(lambda: in_account(slow.ec2).get("instances"), what="the instance")
    time.sleep(1)
    slow.tool.fault(**fault)
    ctrl_c(launching)
    answer = launching.ended()
    assert answer.code == 130 and "everything it had created is removed" in the_error(answer)
    slow.assert_nothing(str(fault))


@pytest.mark.parametrize(
    "fault", [{"body": "page"}, pytest.param({"drop": True}, marks=prove), pytest.param({"body": "empty"}, marks=prove)]
)
def test_answers_that_are_lost_cost_nothing(slow: Slow, fault: dict[str, Any]) -> None:
    """What was made is taken for the launch's own, which goes on with one of each."""
    for operation in CREATES:
        slow.tool.fault(operation=operation, **fault)
    launching = slow.start()
    wait_for(lambda: in_account(slow.ec2).get("instances") or launching.process.poll() is not None, what="it")
    assert {kind: len(ids) for kind, ids in in_account(slow.ec2).items()} == dict.fromkeys(
        ("instances", "groups", "templates", "volumes"), 1
    )
    ctrl_c(launching)
    assert launching.ended().code == 130
    slow.assert_nothing(str(fault))


def test_an_undo_that_is_refused_says_what_is_left(slow: Slow) -> None:
    """Whoever may launch and not terminate is told at once what stays, and what removes it: not that all is removed."""
    slow.tool.fault(operation="TerminateInstances", code="UnauthorizedOperation", status=403, times=-1)
    launching = slow.start()
    wait_for(lambda: in_account(slow.ec2).get("instances"), what="the instance")
    ctrl_c(launching)
    answer = launching.ended()
    (instance,) = in_account(slow.ec2)["instances"]
    error = the_error(answer)
    assert answer.code == 1 and "everything" not in error
    assert f"instance {instance}" in error and f"`gpuctl down {slow.name}`" in error and "TerminateInstances" in error
    slow.tool.no_faults()
    slow.tool("down", slow.name, "-y")


def test_a_killed_launch_is_found_by_down_before_ec2_knows_of_it(slow: Slow) -> None:
    """kill -9 in the fleet's call, and `down` while nobody finds what that made: it waits until it can be found."""
    slow.tool.fault(operation="CreateFleet", delay_s=1.0)
    slow.unseen(SLOW)
    launching = slow.start()
    slow.until_called("CreateFleet")
    launching.process.kill()
    launching.process.communicate()
    wait_for(lambda: slow.calls().count("CreateFleet"), what="the call")
    time.sleep(1.2)
    answer = slow.tool("down", "--all", "-y")
    assert "removed instance i-" in answer.out and answer.out.endswith(f"{slow.name}: nothing is left in us-east-1\n")
    slow.assert_nothing("kill -9")


def test_a_down_that_is_interrupted_says_how_to_go_on(slow: Slow) -> None:
    """Nobody is left to guess whether the host is gone; the same command again takes it down."""
    launching = slow.start()
    folder = slow.tool.home / "state/runs" / slow.name
    wait_for(lambda: (folder / "ssh_config").exists(), within_s=60, what="the boot")
    launching.process.kill()
    launching.process.communicate()
    slow.tool.fault(operation="TerminateInstances", delay_s=5.0)
    taking = slow.tool.start("down", slow.name, "--discard")
    slow.until_called("DescribeInstances")
    time.sleep(3)
    taking.send_signal(signal.SIGINT)
    _, said = taking.communicate(timeout=60)
    assert taking.returncode == 1, said
    assert f"`gpuctl down {slow.name}` continues" in the_error(Answer(1, "", said.decode()))
    slow.tool.no_faults()
    slow.tool("down", slow.name, "--discard")


def test_down_takes_each_run_by_itself(slow: Slow) -> None:
    """One run's file is damaged, one's host is frozen: each is named in one line, and the others go down."""
    folders = {}
    for what in ("whole", "damaged", "frozen"):
        launching = slow.start()
        folder = folders[what] = slow.tool.home / "state/runs" / slow.name
        wait_for(lambda folder=folder: (folder / "ssh_config").exists(), within_s=60, what="the boot")
        launching.process.kill()
        launching.process.communicate()
    (folders["damaged"] / "run.json").write_text('{"plan": {')
    progress = json.loads((folders["frozen"] / "progress.json").read_text())
    (folders["frozen"] / "progress.json").write_text(json.dumps({**progress, "started": True}))

    listed = slow.tool("ls", "--json")
    assert {row["run"] for row in json.loads(listed.out)["runs"]} == {folder.name for folder in folders.values()}
    assert "damaged" not in listed.out and f"{folders['damaged'].name}/run.json" in listed.err

    went = slow.tool("down", "--all", "-y", "--json", code=1)
    answer, frozen = json.loads(went.out), folders["frozen"].name
    assert [one["run"] for one in answer["failed"]] == [frozen] and answer["left"] == []
    assert [one["kind"] for one in answer["removed"]].count("instance") == 2
    (line,) = [line for line in went.err.splitlines() if line.startswith(f"{frozen} is not down: ")]
    assert "--discard" in line and "an hour" in line
    assert the_error(went) == "1 of 3 runs could not be taken down, see above"
    assert slow.tool("down", frozen, "-y", "--discard").out.endswith(f"{frozen}: nothing is left\n")
    assert in_account(slow.ec2) == {}


def closed_pipe(slow: Slow, after_s: float) -> int:
    reader, writer = os.pipe()
    launching = slow.start(stdout=writer, stderr=writer)
    os.close(writer)
    time.sleep(after_s)
    os.close(reader)
    ctrl_c(launching)
    return launching.process.wait(timeout=END_S)


def closed_terminal(slow: Slow, after_s: float) -> int:
    launching, ours = on_terminal(slow)
    time.sleep(after_s)
    os.close(ours)
    return launching.process.wait(timeout=END_S)


def signalled(end: Callable[[Launching], None]) -> Callable[[Slow, float], int]:
    def run(slow: Slow, after_s: float) -> int:
        launching = slow.start()
        time.sleep(after_s)
        end(launching)
        answer = launching.ended()
        if "removed" in answer.err:
            assert the_error(answer) == f"launch of {slow.name} interrupted; everything it had created is removed"
        return answer.code

    return run


def killed(slow: Slow, after_s: float) -> int:
    launching = slow.start()
    time.sleep(after_s)
    launching.process.kill()
    code = launching.ended().code
    slow.tool("down", "--all", "-y")
    return code


AT_ANY_POINT = {
    "Ctrl-C": signalled(ctrl_c),
    "SIGTERM and SIGHUP": signalled(term_and_hup),
    "closed terminal": closed_terminal,
    "closed pipe": closed_pipe,
    "kill -9": killed,
}


@prove
@pytest.mark.parametrize("end", AT_ANY_POINT)
def test_at_twenty_points_nothing_is_left(slow: Slow, end: str) -> None:
    """Instances unknown for 10 s, template and group for 5: from the command's first moment to the boot's wait."""
    slow.unseen(SLOWEST)
    began = time.monotonic()
    launching = slow.start()
    wait_for(lambda: slow.calls().count("DescribeInstances") > 6 or launching.process.poll() is not None, within_s=90)
    took = time.monotonic() - began + 4
    ctrl_c(launching)
    assert launching.ended().code == 130
    codes = []
    for point in range(20):
        slow.unseen(SLOWEST)
        codes.append(AT_ANY_POINT[end](slow, took * (point + 0.5) / 20))
        slow.assert_nothing(f"{end} after {took * (point + 0.5) / 20:.1f} s: {codes}")
    early = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGKILL}
    assert set(codes) <= {130} | early, codes
    assert codes.count(130) >= 12 or end == "kill -9", codes
