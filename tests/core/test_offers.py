"""Which offers do, and which comes first."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.errors import NoCapacity, UsageError
from gpuctl.core.offers import COMPUTE_CAPABILITY, InstanceType, Offer, Requirements, Subnet, parse_gpu, rank, suitable


def kind(name: str, gpu: str, gpus: int, gib: str = "22.4", *, architecture: str = "x86_64") -> InstanceType:
    return InstanceType(name, architecture, gpu, gpus, Decimal(gib))


G4DN = kind("g4dn.xlarge", "T4", 1, "16.0")
G5 = kind("g5.xlarge", "A10G", 1)
G5_BIG = kind("g5.16xlarge", "A10G", 1)
G5_FOUR = kind("g5.12xlarge", "A10G", 4)
G6 = kind("g6.xlarge", "L4", 1)
P4D = kind("p4d.24xlarge", "A100", 8, "40.0")
P4DE = kind("p4de.24xlarge", "A100", 8, "80.0")
P5 = kind("p5.4xlarge", "H100", 1, "80.0")
V100 = kind("p3.2xlarge", "V100", 1, "16.0")
NO_GPU = kind("t3.large", "", 0, "0")
KINDS = [G4DN, G5, G5_BIG, G5_FOUR, G6, P4D, P4DE, P5]


def offer(type_: InstanceType, price: str, zone: str = "us-east-1a", market: str = "spot") -> Offer:
    return Offer(type_, Subnet("subnet-1", "vpc-1", zone, zone[:-1]), market, Decimal(price))  # type: ignore[arg-type]


def test_without_a_wish_one_gpu_of_16_gb_with_bfloat16_will_do() -> None:
    """A T4 has no bfloat16 and a p4d has eight GPUs: neither is what nobody asked for."""
    assert suitable(KINDS, Requirements()) == [G5, G5_BIG, G6, P5]


def test_any_gpu_is_every_type_that_has_one() -> None:
    """What lists all that there is asks for it in this way."""
    assert suitable([*KINDS, NO_GPU], Requirements(gpu="any")) == KINDS
    ranked = rank([offer(P4D, "9"), offer(G4DN, "0.2")], Requirements(gpu="any"))
    assert [one.instance_type for one in ranked] == [G4DN, P4D]


@pytest.mark.parametrize("wish", [Requirements(gpu="v100"), Requirements(instance_type="p3.2xlarge")])
def test_a_gpu_that_the_image_cannot_drive_is_refused_by_name(wish: Requirements) -> None:
    """The reason is told before a host is paid for: the image's driver begins with the T4."""
    with pytest.raises(UsageError, match=r"V100 of p3\.2xlarge is too old for the image's NVIDIA driver; .*T4"):
        suitable([*KINDS, V100], wish)


def test_a_gpu_that_the_image_cannot_drive_is_not_offered() -> None:
    """Neither in the list of all that there is, nor as a way out."""
    assert suitable([*KINDS, V100], Requirements(gpu="any")) == KINDS
    with pytest.raises(NoCapacity, match="another --region"):
        suitable([V100], Requirements(gpu="any"))
    with pytest.raises(UsageError) as error:
        suitable([*KINDS, V100], Requirements(gpu="v1000"))
    assert "V100" not in str(error.value.next_step)


def test_a_gpu_that_is_not_in_the_table_is_never_chosen_by_itself() -> None:
    """What EC2 offers tomorrow can be had by name, and is not taken for granted."""
    new = kind("g9.xlarge", "X900", 1)
    assert suitable([G6, new], Requirements()) == [G6]
    assert suitable([G6, new], Requirements(gpu="x900")) == [new]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a10g", [G5, G5_BIG]),
        ("A10G", [G5, G5_BIG]),
        ("a10", [G5, G5_BIG]),
        ("nvidia L4", [G6]),
        ("a10g:4", [G5_FOUR]),
        ("t4", [G4DN]),
        ("A100", [P4D, P4DE]),
        ("a100-80gb", [P4DE]),
        ("A100-40GB", [P4D]),
        ("a100-80g:8", [P4DE]),
        ("h100", [P5]),
        ("l4-24gb", [G6]),
    ],
)
def test_a_gpu_is_found_by_the_names_that_people_use(text: str, expected: list[InstanceType]) -> None:
    """Case, maker, memory and count are read; without a count it is as few GPUs as there are."""
    assert suitable(KINDS, Requirements(gpu=text)) == expected


@pytest.mark.parametrize("text", ["", ":4", "a10g:", "a10g:0", "a10g:four", "a10g:-1", "a10g:1:2", "--"])
def test_what_is_no_gpu_name_is_a_usage_error(text: str) -> None:
    """The message says how one is written."""
    with pytest.raises(UsageError, match="NAME:COUNT"):
        parse_gpu(text)


@given(st.text())
def test_any_text_is_a_wish_or_a_usage_error(text: str) -> None:
    """Reading `--gpu` never ends in another exception."""
    try:
        wish = parse_gpu(text)
    except UsageError:
        return
    assert wish.name
    assert wish.gpus is None or wish.gpus > 0


def test_an_unknown_gpu_is_told_with_what_is_near_it() -> None:
    """A slip of the finger is answered with the right name."""
    with pytest.raises(UsageError, match="A10G") as error:
        suitable(KINDS, Requirements(gpu="a10gg"))
    assert "A10G" in str(error.value.next_step)
    with pytest.raises(UsageError, match="available: A100, A10G, H100, L4, T4"):
        suitable(KINDS, Requirements(gpu="zzz"))


def test_a_gpu_that_exists_elsewhere_is_a_matter_of_region() -> None:
    """The name is right, so it is no wrong usage: another region has it."""
    with pytest.raises(NoCapacity, match=r"H100 is not offered in this region.*--region"):
        suitable([G5, G6], Requirements(gpu="h100"))


def test_a_count_that_no_host_has_names_those_that_exist() -> None:
    """`a10g:3` is answered with 1 or 4."""
    with pytest.raises(UsageError, match="hosts have 1 or 4"):
        suitable(KINDS, Requirements(gpu="a10g:3"))


def test_an_instance_type_is_taken_as_it_is() -> None:
    """Named outright, a type needs no GPU at all, and case does not matter."""
    assert suitable([*KINDS, NO_GPU], Requirements(instance_type="T3.large")) == [NO_GPU]


def test_an_unknown_instance_type_is_told_with_what_is_near_it() -> None:
    """`g5.xlrage` is answered with `g5.xlarge`."""
    with pytest.raises(UsageError, match=r"similar: g5\.xlarge"):
        suitable(KINDS, Requirements(instance_type="g5.xlrage"))


def test_an_instance_type_and_another_gpu_contradict_each_other() -> None:
    """Both are told, and neither is ignored."""
    with pytest.raises(UsageError, match=r"g5\.xlarge has 1 × A10G, not --gpu h100"):
        suitable(KINDS, Requirements(instance_type="g5.xlarge", gpu="h100"))
    assert suitable(KINDS, Requirements(instance_type="g5.xlarge", gpu="a10g")) == [G5]


def test_the_cheapest_comes_first_and_ties_have_one_order() -> None:
    """Equal prices are ordered by type and zone, whatever order EC2 told them in."""
    offers = [
        offer(G6, "0.30", "us-east-1b"),
        offer(G5, "0.30", "us-east-1c"),
        offer(G6, "0.30", "us-east-1a"),
        offer(P5, "2.00"),
        offer(G5, "0.40"),
    ]
    ranked = [(one.instance_type.name, one.zone) for one in rank(offers, Requirements())]
    assert ranked[:3] == [("g5.xlarge", "us-east-1c"), ("g6.xlarge", "us-east-1a"), ("g6.xlarge", "us-east-1b")]
    assert rank(reversed(offers), Requirements()) == rank(offers, Requirements())


def test_on_demand_as_a_fallback_stands_behind_every_spot_offer() -> None:
    """A cheap on-demand host is still not what spot was asked for."""
    offers = [offer(G6, "0.80", market="on-demand"), offer(P5, "3.00")]
    assert [one.market for one in rank(offers, Requirements(on_demand="fallback"))] == ["spot", "on-demand"]
    assert [one.market for one in rank(offers, Requirements(on_demand="only"))] == ["on-demand"]
    assert [one.market for one in rank(offers, Requirements())] == ["spot"]


def test_a_maximum_price_that_nothing_meets_names_the_cheapest() -> None:
    """The answer is what to raise it to."""
    with pytest.raises(NoCapacity, match=r"g6\.xlarge \(spot\) in us-east-1a at \$0\.3000.*--max-price to 0\.3000"):
        rank([offer(G5, "0.41"), offer(G6, "0.3000")], Requirements(max_price_usd_per_hour=Decimal("0.10")))


def test_no_offer_at_all_is_no_capacity() -> None:
    """Exit code 4, not a crash on an empty list."""
    with pytest.raises(NoCapacity, match="no suitable host is offered"):
        rank([], Requirements())
    with pytest.raises(NoCapacity, match="bfloat16"):
        rank([offer(G4DN, "0.2")], Requirements())


prices = st.decimals(min_value=Decimal("0.01"), max_value=Decimal(100), places=4)
some_offers = st.lists(
    st.builds(
        offer,
        st.sampled_from(KINDS),
        prices.map(str),
        st.sampled_from(["us-east-1a", "us-east-1b", "us-east-1f"]),
        st.sampled_from(["spot", "on-demand"]),
    ),
    max_size=30,
)
wishes = st.builds(
    Requirements,
    gpu=st.none() | st.sampled_from(["a10g", "l4", "A100", "h100:1"]),
    max_price_usd_per_hour=st.none() | prices,
    on_demand=st.sampled_from(["never", "fallback", "only"]),
)


@given(some_offers, wishes, st.randoms(use_true_random=False))
def test_ranking_keeps_its_promises(offers: list[Offer], wanted: Requirements, random: object) -> None:
    """Only offers that were there, none dearer than allowed, none on an unwanted market, in an order of its own."""
    try:
        ranked = rank(offers, wanted)
    except (NoCapacity, UsageError):
        return
    assert ranked
    assert all(one in offers for one in ranked)
    limit = wanted.max_price_usd_per_hour
    assert limit is None or all(one.price_usd_per_hour <= limit for one in ranked)
    assert {one.market for one in ranked} <= set(wanted.markets)
    assert len({one.instance_type.gpus for one in ranked}) == 1
    for first, second in pairwise(ranked):
        if first.market == second.market:
            assert first.price_usd_per_hour <= second.price_usd_per_hour
        else:
            assert (first.market, second.market) == ("spot", "on-demand")
    shuffled = list(offers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rank(shuffled, wanted) == ranked
    assert rank(ranked, wanted) == ranked


def test_the_table_of_gpus_agrees_with_itself() -> None:
    """No two names in it are the same to a person."""
    plain = {parse_gpu(name).name for name in COMPUTE_CAPABILITY}
    assert len(plain) == len(COMPUTE_CAPABILITY)
