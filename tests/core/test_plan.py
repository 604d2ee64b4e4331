"""Plans: what they cost, when they end, which pools they take, and that they survive being stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.codec import dumps, loads
from gpuctl.core.cost import cost_usd
from gpuctl.core.errors import UsageError
from gpuctl.core.lease import Lease, check_then, lease_ends
from gpuctl.core.offers import InstanceType, Market, Offer, Subnet
from gpuctl.core.plan import Access, Attempt, Plan, Terms, images_wanted, most_usd_per_hour, plan_attempts, unlike
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


STORED = a_plan(lease=Lease(NOW + timedelta(hours=10)))
TERMS = Terms(
    NOW + timedelta(minutes=5),
    Decimal(10),
    None,
    frozenset({("us-east-1", "spot", t) for t in ("g6.xlarge", "g5.xlarge")}),
)
BOTH = a_plan(an_attempt(), replace(an_attempt(market="on-demand"), number=2), lease=STORED.lease)


@pytest.mark.parametrize(
    ("what", "agreed", "terms", "stored"),
    [
        (None, {}, {}, STORED),
        (None, {"lease": Lease(NOW), "access": Access("198.51.100.1/32")}, {}, STORED),
        (None, {"attempts": (an_attempt(a_pool("g6.xlarge", price="0.9")),)}, {}, STORED),
        (None, {}, {"max_hours": None, "budget_usd": Decimal("3.1")}, STORED),
        (
            None,
            {},
            {"suitable": TERMS.suitable | {("us-east-1", "on-demand", t) for t in ("g6.xlarge", "g5.xlarge")}},
            BOTH,
        ),
        ("command", {"workload": replace(STORED.workload, command=("python", "other.py"))}, {}, STORED),
        ("job", {"job": "gan"}, {}, STORED),
        ("workload", {"workload": replace(STORED.workload, requirements=())}, {}, STORED),
        ("workload", {"workload": replace(STORED.workload, outputs=("model.pt",))}, {}, STORED),
        ("end of its lease", {}, {"max_hours": Decimal(9)}, STORED),
        ("end of its lease", {}, {"budget_usd": Decimal("2.5")}, STORED),
        ("--then or --discard", {"lease": replace(STORED.lease, then_s=900)}, {}, STORED),
        ("--then or --discard", {"lease": replace(STORED.lease, discard=True)}, {}, STORED),
        ("region, market or instance type", {}, {}, BOTH),
        (
            "region, market or instance type",
            {},
            {"suitable": frozenset({("us-east-1", "spot", "p5.48xlarge")})},
            STORED,
        ),
        ("region, market or instance type", {}, {"suitable": frozenset({("eu-west-1", "spot", "g6.xlarge")})}, STORED),
        ("maximum price", {"attempts": (an_attempt(max_price_usd_per_hour=Decimal("0.5")),)}, {}, STORED),
    ],
)
def test_a_half_made_launch_is_held_against_what_was_agreed(
    what: str | None, agreed: dict[str, Any], terms: dict[str, Any], stored: Plan
) -> None:
    """Whatever would run longer, cost more, keep less or train something else is named, of what may yet be tried too.
    Prices that have moved since change nothing."""
    assert unlike(replace(STORED, **agreed), replace(TERMS, **terms), stored, 1) == what
