"""Plans: what they cost, when they end, which pools they take, and that they survive being stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.codec import dumps, loads
from gpuctl.core.cost import cost_usd
from gpuctl.core.errors import UsageError
from gpuctl.core.lease import check_then, lease_ends
from gpuctl.core.offers import InstanceType, Market, Offer, Subnet
from gpuctl.core.plan import Access, Attempt, Plan, images_wanted, most_usd_per_hour, plan_attempts, unlike
from gpuctl.core.run_names import is_run_name, new_run_name
from tests.plans import IMAGE, a_plan, a_pool, an_attempt

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def offer(
    price: str,
    *,
    name: str = "g5.xlarge",
    market: Market = "spot",
    architecture: str = "x86_64",
    region: str = "us-east-1",
) -> Offer:
    kind = InstanceType(name, architecture, "A10G", 1, Decimal(24))
    return Offer(kind, Subnet("subnet-1", "vpc-1", f"{region}a", region), market, Decimal(price))


def attempts_of(*offers: Offer) -> tuple[Attempt, ...]:
    return plan_attempts(offers, dict.fromkeys(images_wanted(offers), IMAGE))


def test_a_stored_plan_is_the_same_plan() -> None:
    """What run.json keeps gives back the very plan, money and times included."""
    before = a_plan(an_attempt(max_price_usd_per_hour=Decimal("0.5")))
    assert loads(dumps(before), Plan) == before


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


def test_a_budget_counts_with_the_most_that_an_hour_can_cost() -> None:
    """With --max-price that is it, as the spot price may rise so far; else it is the price of now."""
    spot = an_attempt(a_pool(price="0.3"), a_pool(price="0.4"))
    assert most_usd_per_hour([spot]) == Decimal("0.4")
    assert most_usd_per_hour([replace(spot, max_price_usd_per_hour=Decimal(2))]) == Decimal(2)
    fixed = an_attempt(a_pool(price="3"), market="on-demand")
    assert most_usd_per_hour([replace(spot, max_price_usd_per_hour=Decimal(2)), fixed]) == Decimal(3)


@pytest.mark.parametrize("wrong", [{"max_hours": Decimal(0)}, {"budget_usd": Decimal(-1)}])
def test_a_lease_of_nothing_is_refused(wrong: dict[str, Decimal]) -> None:
    """A lease that has ended before it begins is a usage error."""
    with pytest.raises(UsageError):
        lease_ends(NOW, **{"max_hours": None, "budget_usd": None, **wrong}, price_usd_per_hour=Decimal(1))


def test_pools_that_cost_far_more_are_not_in_the_fleet() -> None:
    """A fleet that weighs capacity must not be able to choose what nobody would have chosen."""
    [attempt] = attempts_of(offer("0.40"), offer("0.59"), offer("0.61"), offer("30"))
    assert [pool.price_usd_per_hour for pool in attempt.pools] == [Decimal("0.40"), Decimal("0.59")]


def test_another_architecture_is_not_in_the_fleet() -> None:
    """One fleet has one image, and an image has one architecture."""
    [attempt] = attempts_of(offer("0.40"), offer("0.41", architecture="arm64", name="g5g.xlarge"))
    assert [pool.instance_type for pool in attempt.pools] == ["g5.xlarge"]


def test_on_demand_is_an_attempt_of_its_own() -> None:
    """A fleet call takes one market; with a fallback, on-demand is the second attempt."""
    attempts = attempts_of(offer("0.4"), offer("1.0", market="on-demand"))
    assert [(one.number, one.market, len(one.pools)) for one in attempts] == [(1, "spot", 1), (2, "on-demand", 1)]


@given(st.decimals(min_value="0.001", max_value=100, places=4), st.integers(0, 10**7))
def test_cost_is_never_rounded_down(price: Decimal, seconds: int) -> None:
    """A cost that is shown is at least what the time cost."""
    assert cost_usd(price, timedelta(seconds=seconds)) >= price * seconds / 3600


@pytest.mark.parametrize("job", ["char_rnn", "My Project", "x", "9lives", "ünï", "-", "a" * 200])
def test_a_new_name_is_a_name(job: str) -> None:
    """Whatever a job's folder is called, the run's id made from it is one that gpuctl takes."""
    assert is_run_name(new_run_name(job))


LATER = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("what", "agreed"),
    [
        (None, a_plan()),
        (
            None,
            a_plan(lease=replace(a_plan().lease, ends=a_plan().lease.ends + LATER), access=Access("198.51.100.1/32")),
        ),
        (None, a_plan(an_attempt(a_pool(price="0.9"), a_pool("g5.xlarge", "us-east-1b"), a_pool("g6.2xlarge")))),
        ("command", a_plan(workload=replace(a_plan().workload, command=("python", "other.py")))),
        ("job", a_plan(job="gan")),
        ("workload", a_plan(workload=replace(a_plan().workload, requirements=()))),
        ("workload", a_plan(workload=replace(a_plan().workload, outputs=("model.pt",)))),
        ("end of its lease", a_plan(lease=replace(a_plan().lease, ends=a_plan().lease.ends - LATER))),
        ("--then or --discard", a_plan(lease=replace(a_plan().lease, then_s=900))),
        ("--then or --discard", a_plan(lease=replace(a_plan().lease, discard=True))),
        ("region or market", a_plan(an_attempt(market="on-demand"))),
        ("region or market", a_plan(an_attempt(region="eu-west-1"))),
        ("instance type", a_plan(an_attempt(a_pool("p5.48xlarge")))),
        ("maximum price", a_plan(an_attempt(max_price_usd_per_hour=Decimal("0.5")))),
    ],
)
def test_a_half_made_launch_is_held_against_what_was_agreed(what: str | None, agreed: Plan) -> None:
    """Whatever would run longer, cost more, keep less or train something else is named."""
    assert unlike(agreed, a_plan(), 1) == what
