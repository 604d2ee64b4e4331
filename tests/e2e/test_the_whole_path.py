"""The main job, from end to end: launch, watch, bring home, down."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_tool import Gpuctl, wait_for

TOY = ("python", "train.py", "10")


def test_a_project_goes_to_a_host_and_comes_home(gpuctl: Gpuctl, project: Path) -> None:
    """`gpuctl launch FOLDER -- CMD` trains there, its losses are seen, its checkpoint comes home, nothing is left."""
    answer = gpuctl.json("launch", str(project), "--name", "toy", "-d", "--", "python", "train.py", "20")
    assert answer["run"] == "toy" and answer["cloud"] == "embedded" and len(answer["hosts"]) == 1
    wait_for(lambda: gpuctl.json("status", "toy")["state"] == "succeeded", what="the end of the training")

    status = gpuctl.json("status", "toy")
    assert status["exit_code"] == 0
    assert status["losses"]["val"] == {"step": 20, "loss": 1.25, "nonfinite": None}
    points = [json.loads(line) for line in gpuctl("metrics", "toy", "--json").out.splitlines()]
    assert [p["loss"] for p in points if p["split"] == "train"][:2] == [4.0, 2.5]
    assert "step 20" in gpuctl("tail", "toy", "--no-follow").out

    gpuctl("pull", "toy", "home")
    assert (gpuctl.folder / "home/outputs/checkpoint.pt").read_bytes() == (20).to_bytes(4, "big") * 50_000
    down = gpuctl.json("down", "toy")
    assert {r["kind"] for r in down["removed"]} >= {"instance", "security-group", "launch-template"}
    assert down["left"] == [] and gpuctl.json("ls")["runs"] == []


def test_launch_follows_to_the_end_and_can_do_all_the_rest(gpuctl: Gpuctl, project: Path) -> None:
    """With --pull and --down one line does everything: follow, bring home, tear down. The same line again keeps the
    first run's model where it is, and its plan says where the second one's goes."""
    model, line = "outputs/checkpoint.pt", ("launch", str(project), "--name", "toy", "-y", "--pull", "home", "--down")
    answer = gpuctl(*line, "--", "python", "train.py", "10")
    assert "step 10" in answer.out
    again = gpuctl(*line, "--", "python", "train.py", "5")
    assert f"into {gpuctl.folder / 'home/toy'}" in again.err
    assert (gpuctl.folder / "home" / model).read_bytes() == (10).to_bytes(4, "big") * 50_000
    assert (gpuctl.folder / "home/toy" / model).read_bytes() == (5).to_bytes(4, "big") * 50_000
    assert gpuctl.json("ls")["runs"] == []


def test_a_reader_that_goes_away_ends_the_showing_alone(gpuctl: Gpuctl, project: Path) -> None:
    """`launch … --pull --down | head -2`: nobody reads on, and the run comes home and down all the same. Without these
    two it goes on, and that is said."""
    line = ("launch", str(project), "--name", "toy")
    for more, steps in (("--pull", "home", "--down"), "100"), ((), "100000"):
        process = gpuctl.start(*line, *more, "--", "python", "train.py", steps)
        assert process.stdout and process.stderr
        assert process.stdout.readline() and process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) == 0, said
        assert (f"{'toy: nothing is left' if more else 'toy keeps running'}") in said
        assert gpuctl.json("ls")["runs"] == [] or not more
    assert (gpuctl.folder / "home/outputs/checkpoint.pt").read_bytes() == (100).to_bytes(4, "big") * 50_000
    gpuctl("down", "toy", "--discard")


def test_ctrl_c_once_training_has_ended_names_the_host(gpuctl: Gpuctl, project: Path) -> None:
    """It cuts off the download and the taking down: exit code 1, what still costs money, what to type."""
    process = gpuctl.start("launch", str(project), "--name", "toy", "--pull", "home", "--down", "--", *TOY)
    assert process.stderr
    for said in process.stderr:
        if said.startswith(b"toy succeeded"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1 and "the host of toy may still run and cost money; `gpuctl pull toy`" in rest
    assert [run["run"] for run in gpuctl.json("ls")["runs"]] == ["toy"]
    gpuctl("down", "toy")
    assert gpuctl.json("ls")["runs"] == []


@pytest.mark.prove
def test_a_command_that_fails_says_so(gpuctl: Gpuctl, project: Path) -> None:
    """Exit code 3, the state `failed`, the command's last lines, and its outputs are home."""
    lines = ("import os, sys", "open(os.environ['GPUCTL_OUTPUTS'] + '/left.txt', 'w').write('kept')")
    (project / "fails.py").write_text("\n".join([*lines, "sys.exit('no such data')"]))
    words = ("--pull", "home", "--", "python", "fails.py")
    answer = gpuctl("launch", str(project), "--name", "toy", "-y", *words, code=3)
    assert "no such data" in answer.out + answer.err
    assert (gpuctl.folder / "home/outputs/left.txt").read_text() == "kept"
    assert gpuctl.json("status", "toy")["state"] == "failed"


def test_training_goes_on_without_any_connection(gpuctl: Gpuctl, launched: Callable[..., str]) -> None:
    """After `launch -d` has returned no connection is left, and the steps go on; `stop` then lets the command save.
    `down` brings that home, though what this laptop knows of the run is damaged."""
    run = launched()
    first = gpuctl.json("status", run)["losses"]["train"]["step"]
    wait_for(lambda: gpuctl.json("status", run)["losses"]["train"]["step"] > first, what="another step")
    assert gpuctl.json("stop", run)["state"] == "stopped"
    assert "saved at step" in gpuctl("tail", run, "--no-follow").out
    (gpuctl.home / "state/runs" / run / "progress.json").write_text("")
    gpuctl("down", run, "-y")
    assert (gpuctl.folder / run / "outputs/checkpoint.pt").exists()
