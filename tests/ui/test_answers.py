"""What `ls`, `jobs`, `offers`, `status`, `metrics` and a plan look like to people."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from rich.console import RenderableType

from gpuctl.core.answers import HostRow, JobRow, LastLoss, OfferRow, ResourceRow, RunStatus, RunSummary
from gpuctl.core.lease import Lease
from gpuctl.core.losses.points import Point
from gpuctl.core.plan import Image, Pool, Upload, Workload
from gpuctl.core.uploads import IGNORED, SECRET, NotUploaded, UploadSummary
from gpuctl.ui.console import show
from gpuctl.ui.metrics import points_table
from gpuctl.ui.plan import launch_question, render_plan
from gpuctl.ui.tables import jobs_table, offers_table, runs_table, status_view
from gpuctl.ui.words import loss, money, price, span
from tests.plans import a_plan, an_attempt

NOW = datetime(2026, 11, 25, 2, 30, tzinfo=timezone.utc)
HOST = HostRow("i-0123456789abcdef0", "g5.xlarge", "us-east-1a", "spot", "running")
ROW = RunSummary(
    run="char-rnn-k3f9",
    job="char_rnn",
    cloud="embedded",
    region="us-east-1",
    state="running",
    hosts=(HOST,),
    price_usd_per_hour=Decimal("0.4131"),
    cost_usd=Decimal("0.0312"),
    lease_ends=NOW + timedelta(hours=20),
)
STATUS = RunStatus(**vars(ROW))
PLAN = a_plan(
    an_attempt(
        Pool("g5.xlarge", "A10G", 1, "us-east-1a", "subnet-1", Decimal("0.5")),
        Pool("g5.12xlarge", "A10G", 4, "us-east-1b", "subnet-2", Decimal(2)),
        image=Image("ami-123", "Deep Learning AMI", "x86_64", "ubuntu", "/dev/sda1", 75),
    ),
    workload=Workload(
        command=("python", "-m", "jobs.char_rnn.train", "--data", "two words.txt"),
        requirements=("torch>=2.4,<2.14",),
        uploads=(Upload("/home/me/project", "."), Upload("/home/me/x.txt", "data/x.txt")),
        content=UploadSummary(
            13,
            4_200_000,
            "data/train.bin",
            3_100_000,
            (NotUploaded(SECRET, (".env",), 1), NotUploaded(IGNORED, ("a", "b"), 11)),
        ),
        environment_names=("WANDB_API_KEY",),
        checkpoints=("*.pt",),
        unread=("setup.py", "uv.lock"),
    ),
    lease=Lease(datetime(2026, 11, 26, 2, 30, tzinfo=timezone.utc)),
)


def shown(what: RenderableType, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that it is in a pipe."""
    show(what)
    return capsys.readouterr().out.splitlines()


def test_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a run: state, host, price, cost so far and how long the lease goes on."""
    gone = replace(ROW, run="old", state="down", hosts=(), price_usd_per_hour=None, cost_usd=None)
    head, first, second = shown(runs_table([ROW, gone], now=NOW), capsys)
    assert head.split() == ["run", "state", "host", "price", "so", "far", "host", "ends"]
    assert first.split("  ")[0] == "char-rnn-k3f9"
    for part in ("running", "g5.xlarge spot us-east-1a", "$0.413/h", "$0.03", "in 20 h 00 min"):
        assert part in first
    assert second.split() == ["old", "down", "-", "-", "-", "-"]


def test_a_run_that_does_not_answer_tells_what_it_said_last(capsys: pytest.CaptureFixture[str]) -> None:
    """The hour of today, else the day too; a run that answers needs none, and of one never heard of there is none."""
    lately, long_ago = NOW - timedelta(minutes=30), NOW - timedelta(days=5)
    for seen, state, expected in (
        (lately, "lost", f"lost, last seen at {lately.astimezone():%H:%M}: running"),
        (long_ago, "lost", f"{long_ago.astimezone().day} Nov "),
        (lately, "running", "running  "),
        (None, "lost", "lost  "),
        (None, "host up", "host up  "),
    ):
        row = replace(ROW, state=state, seen=seen, seen_state="running" if seen else None)
        assert expected in shown(runs_table([row], now=NOW), capsys)[1]


def test_what_a_host_says_of_its_state_and_of_its_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Why a run is as it is, below the table; its host's end, where that is sooner than the lease's; both in status."""
    why = "its host was restarted meanwhile"
    off = NOW + timedelta(minutes=14)
    row = replace(STATUS, state="failed", why=why, power_off_at=off)
    _, first, second = shown(runs_table([row], now=NOW), capsys)
    assert "in 14 min 00 s" in first and second == f"char-rnn-k3f9 failed: {why}"
    whole = " ".join(" ".join(shown(status_view(row, now=NOW), capsys)).split())
    assert f"failed: {why} job" in whole
    assert f"host ends in 14 min 00 s, {off.astimezone():%a} " in whole


def test_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Empty answers are words, not an empty screen."""
    assert shown(runs_table([]), capsys) == ["no runs"]
    assert shown(offers_table([]), capsys) == ["no offers"]
    assert shown(points_table([]), capsys) == ["no losses yet"]


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Long summaries stay on their line where nobody looks at a width."""
    summary = "what it is, at length " * 6
    lines = shown(jobs_table([JobRow("x", summary, "python train.py", ("smoke", "gpu"))]), capsys)
    assert len(lines) == 2
    assert summary.strip() in lines[1]
    assert lines[1].endswith("smoke, gpu")


def test_offers(capsys: pytest.CaptureFixture[str]) -> None:
    """One line an offer, in the given order, several GPUs counted."""
    pools = PLAN.attempts[0].pools
    rows = [OfferRow(p.instance_type, "H100", p.gpus, p.zone, "spot", p.price_usd_per_hour) for p in pools]
    _, first, second = shown(offers_table(rows), capsys)
    assert first.split() == ["g5.xlarge", "H100", "spot", "us-east-1a", "$0.500/h"]
    assert "4× H100" in second


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    """One run whole: why it failed, what it cost, its last losses, what is in AWS, how to reach it."""
    row = replace(
        STATUS,
        state="failed",
        exit_code=1,
        losses={"train": LastLoss(1200, 1.4931), "val": LastLoss(1200, None)},
        resources=tuple(ResourceRow(kind, "x") for kind in ("instance", "volume", "volume")),
        ssh_config="/home/me/my runs/ssh_config",
        problem="it does not answer",
    )
    text = "\n".join(shown(status_view(row, now=NOW), capsys))
    for part in (
        "failed, exit code 1",
        "it does not answer",
        "i-0123456789abcdef0",
        "$0.03 so far",
        "in 20 h 00 min",
        "train 1.4931 at step 1200",
        "val not finite",
        "instance, 2× volume",
        "ssh -F '/home/me/my runs/ssh_config' char-rnn-k3f9",
    ):
        assert part in text


def test_losses_that_are_not_known_are_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A laptop without a key says that it does not know; a run without losses says that there are none."""
    assert "losses  not known here" in shown(status_view(STATUS, now=NOW), capsys)
    assert "losses  none seen yet" in shown(status_view(replace(STATUS, losses={}), now=NOW), capsys)


def test_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan says what goes where, who may reach it, the most that it can cost, and when outputs are lost."""
    text = "\n".join(shown(render_plan(PLAN, now=NOW), capsys))
    for part in (
        "python -m jobs.char_rnn.train --data 'two words.txt'",
        "g5.xlarge (A10G), spot, us-east-1a, $0.500/h",
        "or g5.12xlarge (4× A10G), spot, us-east-1b, $2.000/h",
        "us-east-1 (default), cloud aws",
        "SSH from 203.0.113.7/32 and nowhere else",
        "/home/me/project, /home/me/x.txt as data/x.txt",
        "data/x.txt: 13 files, 4.2 MB, the largest is data/train.bin (3.1 MB)",
        "not uploaded: .env (may hold secrets; upload it with --put)",
        "not uploaded: a, b and 9 more (in .gpuctlignore)",
        "not read: setup.py, uv.lock (install with --requirement NAME, or --requirement . for the project)",
        "WANDB_API_KEY (values are not stored)",
        "$12.00 for a whole lease of 24 h 00 min at the current price, without disk and traffic; "
        "$48.00 at the most expensive offer",
        "a spot price can rise, to the on-demand price at most; --max-price sets a lower limit",
        "outputs not downloaded by then are lost",
    ):
        assert part in text


def test_a_plan_says_at_most_only_where_there_is_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """--max-price bounds a spot host and an on-demand price does not move; without either there is no bound."""
    spot = PLAN.attempts[0]
    limited = replace(PLAN, attempts=(replace(spot, max_price_usd_per_hour=Decimal(3)),))
    assert (
        "at most $72.00 for a whole lease of 24 h 00 min, without disk and traffic; $12.00 at the first"
        in "\n".join(shown(render_plan(limited, now=NOW), capsys))
    )
    fixed = replace(spot, market="on-demand", pools=spot.pools[:1])
    assert "at most $12.00 for a whole lease" in "\n".join(
        shown(render_plan(replace(PLAN, attempts=(fixed,)), now=NOW), capsys)
    )
    mixed = "\n".join(shown(render_plan(replace(PLAN, attempts=(spot, fixed)), now=NOW), capsys))
    assert "at most $" not in mixed and "a spot price can rise" in mixed


def test_the_question_has_what_may_have_scrolled_off() -> None:
    """Run, host, price, the most that it can cost and what goes up: a plan is longer than a small screen."""
    assert launch_question(PLAN, now=NOW) == (
        "Launch char-rnn-k3f9 on g5.xlarge (A10G), spot, for $0.500/h, "
        "$12.00 for a whole lease at that price, uploading 13 files, 4.2 MB?"
    )
    limited = replace(PLAN, attempts=(replace(PLAN.attempts[0], max_price_usd_per_hour=Decimal(3)),))
    assert "for $0.500/h, at most $72.00, uploading" in launch_question(limited, now=NOW)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "sooner: 30 min after training has ended and all outputs are downloaded"),
        (
            {"then_s": 900, "discard": True},
            "the host ends 15 min after training has ended; outputs not downloaded by then are lost",
        ),
        (
            {"then_s": 90, "discard": False},
            "1.5 min after training has ended and all outputs are downloaded; outputs are kept until downloaded, or",
        ),
    ],
    ids=["as always", "then down, dropping", "then down, keeping"],
)
def test_a_plan_says_what_ends_the_host_when(
    asked: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the minute, and what becomes of outputs that nobody has brought home."""
    plan = replace(PLAN, lease=replace(PLAN.lease, **asked))
    assert said in " ".join(" ".join(shown(render_plan(plan, now=NOW), capsys)).split())


def test_points(capsys: pytest.CaptureFixture[str]) -> None:
    """Every point on a line, with what is not known as a dash and NaN as nan."""
    points = [Point(1, 0.25, "train", 2.5), Point(None, None, "val", None, "nan", NOW + timedelta(seconds=1))]
    head, first, second = shown(points_table(points), capsys)
    assert head.split() == ["step", "epoch", "split", "loss", "time"]
    assert first.split() == ["1", "0.25", "train", "2.5000", "-"]
    assert second.split()[:4] == ["-", "-", "val", "nan"]


def test_text_from_elsewhere_is_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither escapes nor rich's markup in names reach the terminal as anything but text."""
    row = replace(ROW, run="a\x1b[2Jb", hosts=(replace(HOST, instance_type="[red]x[/red]\x1b]0;t\x07"),))
    line = shown(runs_table([row], now=NOW), capsys)[1]
    assert "\x1b" not in line
    assert line.startswith("ab ")
    assert "[red]x[/red] spot" in line


def test_words() -> None:
    """Times, money and losses as people read them."""
    assert [span(s) for s in (0.04, 9.96, 59.4, 200, 7501, 86399, 86400 * 3.2)] == [
        "0.0 s", "10 s", "59 s", "3 min 20 s", "2 h 05 min", "24 h 00 min", "3 d 4 h",
    ]  # fmt: skip
    assert [money(m) for m in (None, 0, 0.001, 0.415, 1234.5)] == ["-", "$0.00", "under $0.01", "$0.41", "$1,234.50"]
    assert price(None) == "-"
    assert [loss(x) for x in (1.23456, 0.0, 1e-5, 1e6)] == ["1.2346", "0.0000", "1.000e-05", "1.000e+06"]
    assert loss(None, "inf") == "inf"
