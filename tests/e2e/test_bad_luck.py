"""Bad luck on real hosts: what fails, lies or dies there ends in one line, and nothing is lost that can be kept."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e_tool import Answer, Gpuctl, Inside, in_account, processes_of, the_error, wait_for

NOTHING = {"removed": [], "left": [], "failed": [], "regions": [], "silent": []}
"""What `down --json` says where there was nothing to take down."""
TRAINING = ("python", "train.py", "100000")

NAMES = [
    b"two\nlines.pt",
    b"quote'\"s.pt",
    b"-rf",
    b"--help",
    b"$(touch owned)",
    b"`id`; x.pt",
    b"sp ace",
    b" lead",
    b"*",
    b"...",
    b".hidden",
    b"C:\\x",
    b"\x1b[31mred",
    b"\xff\xfe.bin",
    "e\u0301\u202etxt.pt".encode(),
]
"""What outputs may be called on Linux; each is home byte for byte."""

LINKS = {"abs-link": "/etc/passwd", "up-link": "../../../../etc/passwd", "folder-link": "../.."}
OUTSIDE = ("../../x", "../x", "{home}/x", "outputs/../../x", "outputs/sub/../../../x")
"""Names that no file has: a host that lies sends them."""

HOSTILE_LOG = [
    b"step 1  epoch 0.50  train loss 2.5000  val loss 2.6000\n",
    bytes(range(256)) + b"\n",
    b"x" * 1_000_000 + b"\n",
    b"".join(b"\r%3d%%|####| loss=%d.5" % (part, part) for part in range(1, 30)) + b"\r100%|####| done\n",
    b"\x1b]0;owned\x07\x1b[2J\x1b[5;41mloud\x1b[0m\x1b]52;c;ZXZpbA==\x07\x9b2J\xc2\x9b2J \xe2\x80\xaetrick\n",
    b"\x1bP1;1|17/evil\x1b\\\x1bc\x1b[6n\x1b[?1049h\n",
    b"What loss hath thou: the loss 12, step 3 train loss 4.0 val loss 5.0\n",
    b"step 2  epoch 1.00  train loss nan  val loss inf\n",
    b"no such data\n",
]

HOSTILE = """
import os, pathlib, sys
log, names, links, lying = {log!r}, {names!r}, {links!r}, {lying!r}
for piece in log:
    sys.stdout.buffer.write(piece)
sys.stdout.flush()
home = pathlib.Path.home() / "gpuctl"
(home / "host.pyz").rename(home / "honest.pyz")
(home / "host.pyz").write_text(lying)
os.chdir(os.environ["GPUCTL_OUTPUTS"])
for name in names:
    with open(name, "wb") as file:
        file.write(name * 3)
for name, where in links.items():
    os.symlink(where, name)
os.mkfifo("pipe")
sys.exit(1)
"""
"""A training command that prints and leaves what nobody wants, puts a liar in the payload's place, and fails."""

LYING = """
import io, json, os, subprocess, sys, tarfile
names = {names!r}
real = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "honest.pyz"), sys.argv[1]]
asked = sys.stdin.buffer.read()
if sys.argv[1] == "manifest":
    *lines, last = subprocess.run(real, input=asked, stdout=subprocess.PIPE).stdout.decode().splitlines()
    whole = {{"event": "file", "size": 3, "mtime_ns": 1, "inode": 1, "complete": True}}
    print("\\n".join([*lines, *(json.dumps({{**whole, "path": name}}) for name in names), last]))
elif sys.argv[1] == "send":
    request = json.loads(asked)
    request["paths"] = [path for path in request["paths"] if path not in names]
    honest = subprocess.run(real, input=json.dumps(request).encode() + b"\\n", stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        link = tarfile.TarInfo("outputs/link")
        link.type, link.linkname = tarfile.SYMTYPE, "{home}"
        tar.addfile(link)
        for name in [*names, "outputs/link/x"]:
            bad = tarfile.TarInfo(name)
            bad.size = 3
            tar.addfile(bad, io.BytesIO(b"bad"))
        with tarfile.open(fileobj=io.BytesIO(honest)) as good:
            for member in good:
                tar.addfile(member, good.extractfile(member))
else:
    sys.exit(subprocess.run(real, input=asked).returncode)
"""
"""A payload that names and sends files outside of the outputs too."""


@dataclass(frozen=True)
class Story:
    """A hostile run from its launch to after its end: what each command did, and where its outputs are."""

    launch: Answer
    tail: Answer
    terminal: tuple[int, bytes]
    metrics: Answer
    status: Answer
    stops: tuple[Answer, Answer]
    pull: Answer
    kept: Answer
    down: Answer
    again: Answer
    later: dict[str, Answer]
    home: Path


@pytest.fixture(scope="module")
def story(shared: Gpuctl) -> Story:
    """One hostile run, launched, looked at in every way, taken down, and looked at again."""
    project, home = shared.folder / "hostile", shared.folder / "in/here/home"
    project.mkdir()
    outside = [name.format(home=home.parent) for name in OUTSIDE]
    lying = LYING.format(names=outside, home=home.parent)
    (project / "train.py").write_text(HOSTILE.format(log=HOSTILE_LOG, names=NAMES, links=LINKS, lying=lying))
    words = ("launch", str(project), "--name", "bad", "-y", "--pull", str(home), "--", "python", "train.py")
    inside = Inside(shared.home, shared.folder, shared.environment)
    return Story(
        launch=shared(*words, code=3),
        tail=shared("tail", "bad", "-n", "1000", code=None),
        terminal=shared.on_a_terminal("tail", "bad", "-n", "1000"),
        metrics=shared("metrics", "bad", "--json"),
        status=shared("status", "bad", "--json"),
        stops=(shared("stop", "bad"), shared("stop", "bad")),
        pull=shared("pull", "bad", "--json", code=1),
        kept=shared("down", "bad", "-y", code=1),
        down=shared("down", "bad", "-y", "--discard", "--json"),
        again=inside("down", "bad", "-y", "--json"),
        later={c: inside(c, "bad", code=None) for c in ("status", "tail", "metrics", "pull", "stop", "watch")},
        home=home,
    )


def test_a_command_that_fails_ends_the_launch_with_its_last_lines(story: Story) -> None:
    """Exit code 3, what the command said last, its state, what is still there; stopping what has ended is no error."""
    assert story.launch.out.endswith("no such data\n")
    assert the_error(story.launch) == "the training command of bad failed with exit code 1"
    assert "the host keeps running and costs money: gpuctl pull bad, gpuctl down bad" in story.launch.err
    status = json.loads(story.status.out)
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert the_error(story.tail) == the_error(story.launch) and story.tail.code == 3
    for stop in story.stops:
        assert "bad failed (exit code 1)" in stop.out


def test_status_has_the_documented_keys(story: Story) -> None:
    """`status --json` is `ls --json`'s row and what only the host and this laptop know."""
    status = json.loads(story.status.out)
    of_ls = ["run", "job", "cloud", "region", "state", "hosts", "price_usd_per_hour", "cost_usd", "lease_ends"]
    assert list(status)[: len(of_ls)] == of_ls
    assert {"exit_code", "losses", "resources", "ssh_config"} <= set(status)
    assert list(status["hosts"][0]) == ["instance_id", "instance_type", "zone", "market", "state"]
    assert {one["kind"] for one in status["resources"]} >= {"instance", "security-group", "volume"}
    assert Path(status["ssh_config"]).name == "ssh_config"
    assert status["losses"]["val"] == {"step": 2, "loss": None, "nonfinite": "inf"}


def test_nothing_of_a_log_reaches_the_terminal_raw(story: Story) -> None:
    """Into a pipe go printable characters alone; onto a terminal no sequence but gpuctl's own clearing and colours."""
    code, seen = story.terminal
    assert code == 3
    ours = re.sub(rb"\r\x1b\[2K|\r\n|\x1b\[(?:0|1|36|1;36)m", b"", seen)
    for shown in (story.launch.out, story.tail.out, ours.decode()):
        assert all(c.isprintable() or c in "\n\t" for c in shown)
        assert "owned" not in shown and "evil" not in shown and "ZXZpbA" not in shown and "loud" in shown
        assert "<U+202E>trick" in shown and "\ufffd" in shown and "␀␁␂" in shown
        assert re.search(r"x … 99[0-9],[0-9]{3} bytes … x", shown)
    assert story.tail.out.count("%|") == 1 and "100%|####| done" in story.tail.out
    assert seen.count(b"%|") == 1
    assert max(map(len, story.tail.out.splitlines())) < 8000


def test_only_losses_are_losses(story: Story) -> None:
    """The two lines of the job's style give points, NaN and infinity as null; the word in a sampled text gives none."""
    points = [json.loads(line) for line in story.metrics.out.splitlines()]
    assert [(p["split"], p["step"], p["loss"], p.get("nonfinite")) for p in points] == [
        ("train", 1, 2.5, None),
        ("val", 1, 2.6, None),
        ("train", 2, None, "nan"),
        ("val", 2, None, "inf"),
    ]
    assert {"step", "epoch", "split", "loss", "time"} <= set(points[0])


def test_hostile_names_come_home_byte_for_byte(story: Story) -> None:
    """Newlines, quotes, dashes, shell words, escapes, bytes that are no text: each file is there, named as it was."""
    outputs = os.fsencode(story.home / "outputs")
    assert sorted(os.listdir(outputs)) == sorted(NAMES)
    for name in NAMES:
        assert Path(os.fsdecode(os.path.join(outputs, name))).read_bytes() == name * 3
    brought = json.loads(story.pull.out)
    assert brought["files"] == [] and brought["unchanged"] >= len(NAMES)


def test_nothing_of_a_host_lands_outside(story: Story) -> None:
    """`../../x`, absolute names, links and pipes are named; the folders around the outputs hold nothing, and `down`
    removes nothing until it is told to lose what stayed."""
    for name in OUTSIDE:
        assert f"not downloaded: {name.format(home=story.home.parent)} (3 B: " in story.launch.err
    for name in [*(f"outputs/{link}" for link in LINKS), "outputs/pipe"]:
        assert f"skipped {name}: " in story.launch.err
    assert "not all of bad was downloaded" in the_error(story.kept) and "gpuctl down bad --discard" in the_error(
        story.kept
    )
    around = [story.home.parent, story.home.parent.parent]
    assert [sorted(p.name for p in folder.iterdir()) for folder in around] == [["home"], ["here"]]
    assert sorted(p.name for p in story.home.iterdir() if not p.name.startswith(".")) == ["gpuctl", "outputs"]
    assert not any(p.is_symlink() for p in story.home.rglob("*"))
    assert all(line.isprintable() for line in story.launch.err.splitlines())


def test_down_may_be_said_twice_and_the_run_is_still_known(story: Story) -> None:
    """The second `down` finds nothing and is no error; afterwards the log is here, and the state is `down`."""
    assert json.loads(story.down.out)["left"] == []
    assert {one["kind"] for one in json.loads(story.down.out)["removed"]} >= {"instance", "security-group"}
    assert json.loads(story.again.out) == NOTHING
    later = story.later
    assert re.search(r"^state +down, exit code 1$", later["status"].out, re.MULTILINE)
    assert later["tail"].code == 3 and later["tail"].out.endswith("no such data\n")
    assert later["metrics"].code == 0 and "2.5" in later["metrics"].out
    for command in ("pull", "stop", "watch"):
        assert later[command].code == 1
        assert the_error(later[command]) == f"run bad was taken down; its outputs are in {story.home}"


@pytest.fixture
def toy(shared: Gpuctl, project: Path) -> Iterator[Callable[..., Answer]]:
    """Launch the project on the shared cloud, detached; in the end all that it launched is removed."""
    names = []

    def launch(name: str, *words: str, code: int = 0, command: Sequence[str] = TRAINING) -> Answer:
        names.append(name)
        return shared("launch", str(project), "--name", name, "-d", *words, "--", *command, code=code)

    yield launch
    shared.no_faults()
    shared("down", "--discard", "-y", *names, code=None)
    assert in_account(shared.ec2()) == {}


def test_without_spot_capacity_it_goes_on_on_demand(shared: Gpuctl, toy: Callable[..., Answer]) -> None:
    """With `--on-demand fallback` a spot market without capacity is told, and one on-demand host trains."""
    shared.fault(operation="CreateFleet", market="spot", times=-1)
    answer = toy("fallback", "--on-demand", "fallback")
    assert "no spot capacity" in answer.err and "trying on-demand" in answer.err
    ((host,),) = [row["hosts"] for row in shared.json("ls")["runs"]]
    assert (host["market"], host["state"]) == ("on-demand", "running")


def test_a_lost_answer_and_a_busy_api_make_one_host(shared: Gpuctl, toy: Callable[..., Answer]) -> None:
    """CreateFleet's answer is lost, DescribeInstances throttles and fails: there is one instance, and it trains."""
    shared.fault(operation="CreateFleet", drop=True)
    shared.fault(operation="DescribeInstances", code="RequestLimitExceeded", status=503)
    shared.fault(operation="DescribeInstances", code="InternalError", status=500)
    toy("once")
    reservations = shared.ec2().describe_instances()["Reservations"]
    made = [i for r in reservations for i in r["Instances"] if {"Key": "gpuctl:run", "Value": "once"} in i["Tags"]]
    assert [i["State"]["Name"] for i in made] == ["running"]
    assert shared.json("status", "once")["state"] == "running"


@pytest.mark.parametrize("slower", [1, pytest.param(5, marks=pytest.mark.prove)])
def test_a_cloud_that_does_not_know_yet_what_it_made(shared: Gpuctl, toy: Callable[..., Answer], slower: int) -> None:
    """The group, the template, the instance: each unknown for seconds after it was made; one host trains."""
    shared("cloud", "start")
    for operation, unseen_s in (("CreateSecurityGroup", 1), ("CreateLaunchTemplate", 1), ("CreateFleet", 2)):
        shared.fault(operation=operation, unseen_s=unseen_s * slower, times=-1)
    toy("unseen")
    shared.no_faults()
    assert {kind: len(ids) for kind, ids in in_account(shared.ec2()).items()} == dict.fromkeys(
        ("instances", "groups", "templates", "volumes"), 1
    )
    assert shared.json("status", "unseen")["state"] == "running"


def test_a_launch_that_was_cut_off_in_the_fleet_call_goes_on(
    shared: Gpuctl, toy: Callable[..., Answer], project: Path
) -> None:
    """kill -9 while CreateFleet runs; the same launch again takes up the instance that the call made, and trains."""
    shared.fault(operation="CreateFleet", delay_s=1.5)
    process = shared.start("launch", str(project), "--name", "half", "-d", "--", *TRAINING)
    stored = shared.home / "state/runs/half/run.json"
    wait_for(lambda: stored.exists() and json.loads(stored.read_text())["fleet_request"], what="the fleet call")
    wait_for(lambda: in_account(shared.ec2()).get("templates"), what="the template")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: in_account(shared.ec2()).get("instances"), what="the instance")
    other = shared("launch", str(project), "--name", "half", "-d", "--", "python", "other.py", code=2)
    assert "belongs to an unfinished launch of project with another command" in the_error(other)
    shorter = shared("launch", str(project), "--name", "half", "-d", "--max-hours", "1", "--", *TRAINING, code=2)
    assert "with another end of its lease; run `gpuctl down half` first" in the_error(shorter)
    toy("half")
    assert len(in_account(shared.ec2())["instances"]) == 1


def test_a_command_that_fails_at_once_is_told_by_a_detached_launch(shared: Gpuctl, toy: Callable[..., Answer]) -> None:
    """Exit code 3 and not a word of training; with --json the answer is still alone on standard output."""
    answer = toy("quick", "--json", code=3, command=["sh", "-c", "exit 7"])
    assert the_error(answer) == "the training command of quick failed with exit code 7"
    assert "quick has failed already" in answer.err and "has started" not in answer.err


def test_an_unknown_name_keeps_no_other_run_up(shared: Gpuctl, toy: Callable[..., Answer]) -> None:
    """`down A B`: the run that is there is removed, and the name that is none is told."""
    toy("known")
    answer = shared("down", "unknown", "known", "--discard", "-y", code=1)
    assert "known: nothing is left" in answer.out and in_account(shared.ec2()) == {}
    assert "there is no run called 'unknown' in us-east-1" in answer.err and "is not down" not in answer.err
    assert the_error(answer) == "1 of 2 runs could not be taken down, see above"


def test_a_command_that_dies_of_an_import_is_told_by_a_detached_launch(
    shared: Gpuctl, toy: Callable[..., Answer]
) -> None:
    """Though it has printed before, and what it lacks may be typed."""
    script = "import time; print('begun', flush=True); time.sleep(0.3); import not_to_be_had"
    answer = toy("lacks", "--json", code=3, command=["python", "-c", script])
    hint = "if not_to_be_had is a package, launch with `--requirement not_to_be_had`"
    assert answer.err.endswith(f"gpuctl: the training command of lacks failed with exit code 1; {hint}\n")
    assert "lacks has failed already" in answer.err and "No module named 'not_to_be_had'" in answer.err
    assert list(json.loads(answer.out)) == ["run", "cloud", "region", "hosts"]
    assert shared.json("ls")["runs"][0]["state"] == "failed"


def test_requirements_that_cannot_be_installed_undo_the_launch(shared: Gpuctl, project: Path) -> None:
    """pip's own last lines are shown, the error names what is to be mended, and nothing is left."""
    (project / "requirements.txt").write_text("gpuctl-missing @ file:///no/such/gpuctl_missing-1-py3-none-any.whl\n")
    answer = shared("launch", str(project), "--name", "pip", "-y", "--", "python", "train.py", code=1)
    error = the_error(answer)
    assert "the requirements could not be installed" in error and "gpuctl_missing-1-py3-none-any.whl" in error
    assert "  ERROR: " in answer.err
    assert in_account(shared.ec2()) == {} and not (shared.home / "state/runs/pip").exists()


@pytest.mark.prove
def test_who_follows_is_told_at_once_that_the_cloud_is_another(own_cloud: Gpuctl, project: Path) -> None:
    """It was stopped and started again on the same port: its host has gone, and is not waited for."""
    own_cloud("launch", str(project), "--name", "lost", "-d", "--", *TRAINING)
    following = own_cloud.start("tail", "lost")
    assert following.stdout is not None and following.stdout.readline()
    following.send_signal(signal.SIGSTOP)
    own_cloud("cloud", "stop")
    own_cloud("cloud", "start")
    following.send_signal(signal.SIGCONT)
    _, said = following.communicate(timeout=60)
    assert following.returncode == 1
    assert "and its hosts with it" in the_error(Answer(1, "", said.decode()))


def test_a_cloud_that_dies_is_told_by_every_command(own_cloud: Gpuctl, project: Path) -> None:
    """Its hosts end within seconds; who follows is told; whatever starts the next one says what was lost with it."""
    own_cloud("launch", str(project), "--name", "lost", "-d", "--", *TRAINING)
    (instance,) = in_account(own_cloud.ec2())["instances"]
    following = own_cloud.start("tail", "lost")
    assert following.stdout is not None and following.stdout.readline()
    hosts = own_cloud.home / "state/cloud/hosts"
    assert processes_of(hosts)
    os.kill(own_cloud.json("cloud", "status")["pid"], signal.SIGKILL)
    wait_for(lambda: not processes_of(hosts), within_s=10, what="the end of its hosts")
    _, said = following.communicate(timeout=60)
    assert following.returncode == 1
    told = the_error(Answer(1, "", said.decode()))
    assert "nothing answers at http://127.0.0.1:" in told and "`gpuctl cloud start`" in told
    status = own_cloud("status", "lost")
    assert f"the embedded cloud had died, and with it: {instance} (run lost)" in status.err
    assert re.search(r"^state +interrupted$", status.out, re.MULTILINE)
    assert "run lost no longer has a host" in the_error(own_cloud("tail", "lost", "-n", "1", code=1))
    assert own_cloud.json("down", "lost") == NOTHING
    assert re.search(r"^state +down$", own_cloud("status", "lost").out, re.MULTILINE)
