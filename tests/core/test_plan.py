"""Plans: what they cost, when they end, which pools they take, and that they survive being stored."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.errors import UsageError
from gpuctl.core.job import run_name_ok
from gpuctl.core.offers import InstanceType, Market, Offer
from gpuctl.core.plan import Plan, Upload, check_then, cost_usd, lease_ends, new_run_name, shortlist

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def offer(price: str, *, name: str = "g5.xlarge", market: Market = "spot", architecture: str = "x86_64") -> Offer:
    kind = InstanceType(name, architecture, 4, Decimal(16), "A10G", 1, Decimal(24))
    return Offer(kind, "us-east-1a", market, Decimal(price))


def plan(*offers: Offer) -> Plan:
    return Plan(
        run="char-rnn-k3f9",
        job="char_rnn",
        cloud="aws",
        region="us-east-1",
        region_source="default",
        owner="arn:aws:iam::123456789012:user/ada",
        command=("python", "train.py"),
        requirements=("torch>=2.4",),
        uploads=(Upload("/home/ada/project", "."),),
        environment_names=("WANDB_MODE",),
        outputs=None,
        checkpoints=("*.pt",),
        pattern=None,
        choices=shortlist(offers or [offer("0.4")]),
        image_id="ami-1",
        image_name="Ubuntu",
        login_user="ubuntu",
        root_device="/dev/sda1",
        volume_gib=100,
        caller_cidr="203.0.113.7/32",
        max_price_usd_per_hour=Decimal("0.5"),
        lease_ends=NOW + timedelta(hours=24),
    )


def test_a_stored_plan_is_the_same_plan() -> None:
    """What run.json keeps gives back the very plan, money and times included."""
    before = plan()
    assert Plan.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_a_plan_that_was_stored_before_there_was_a_then_reads_as_without_one() -> None:
    """Its host ends half an hour after its outputs are home, and drops none."""
    stored = plan().to_json()
    del stored["then_s"], stored["discard"]
    read = Plan.from_json(stored)
    assert (read.then_s, read.discard, read.idle_s) == (None, False, 1800)


def test_a_then_that_is_longer_than_the_lease_is_refused() -> None:
    """The lease's end would always come first."""
    check_then(3599, timedelta(hours=1))
    check_then(None, timedelta(hours=1))
    with pytest.raises(UsageError, match="longer than the whole lease"):
        check_then(3600, timedelta(hours=1))


def test_a_lease_is_a_day_unless_said() -> None:
    """Without --max-hours a host ends itself after 24 hours."""
    ends = lease_ends(NOW, max_hours=None, budget_usd=None, price_usd_per_hour=Decimal(1))
    assert ends == NOW + timedelta(hours=24)


def test_a_budget_shortens_the_lease() -> None:
    """Two dollars at fifty cents an hour are four hours, whatever --max-hours allows."""
    ends = lease_ends(NOW, max_hours=Decimal(10), budget_usd=Decimal(2), price_usd_per_hour=Decimal("0.5"))
    assert ends == NOW + timedelta(hours=4)


@pytest.mark.parametrize("wrong", [{"max_hours": Decimal(0)}, {"budget_usd": Decimal(-1)}])
def test_a_lease_of_nothing_is_refused(wrong: dict[str, Decimal]) -> None:
    """A lease that has ended before it begins is a usage error."""
    with pytest.raises(UsageError):
        lease_ends(NOW, **{"max_hours": None, "budget_usd": None, **wrong}, price_usd_per_hour=Decimal(1))


def test_pools_that_cost_far_more_are_not_in_the_fleet() -> None:
    """A fleet that weighs capacity must not be able to choose what nobody would have chosen."""
    chosen = shortlist([offer("0.40"), offer("0.59"), offer("0.61"), offer("30")])
    assert [c.price_usd_per_hour for c in chosen] == [Decimal("0.40"), Decimal("0.59")]


def test_another_architecture_is_not_in_the_fleet() -> None:
    """One fleet has one image, and an image has one architecture."""
    chosen = shortlist([offer("0.40"), offer("0.41", architecture="arm64", name="g5g.xlarge")])
    assert [c.instance_type for c in chosen] == ["g5.xlarge"]


def test_on_demand_is_an_attempt_of_its_own() -> None:
    """A fleet call takes one market; with a fallback, on-demand is the second attempt."""
    attempts = plan(offer("0.4"), offer("1.0", market="on-demand")).attempts()
    assert [[c.market for c in a.choices] for a in attempts] == [["spot"], ["on-demand"]]


@given(st.decimals(min_value="0.001", max_value=100, places=4), st.integers(0, 10**7))
def test_cost_is_never_rounded_down(price: Decimal, seconds: int) -> None:
    """A cost that is shown is at least what the time cost."""
    assert cost_usd(price, timedelta(seconds=seconds)) >= price * seconds / 3600


@pytest.mark.parametrize("job", ["char_rnn", "My Project", "x", "9lives", "ünï", "-", "a" * 200])
def test_a_new_name_is_a_name(job: str) -> None:
    """Whatever a job's folder is called, the run's id made from it is one that gpuctl takes."""
    assert run_name_ok(new_run_name(job))
