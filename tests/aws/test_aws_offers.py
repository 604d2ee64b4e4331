"""What hosts cost, and the images that they boot from."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from gpuctl.aws.account import Account
from gpuctl.aws.images import find_image
from gpuctl.aws.inventory import find_instances
from gpuctl.aws.offers import as_instance_type, find_offers, on_demand_price, prices
from gpuctl.core.errors import CloudError, NoCapacity, NotAllowed, UsageError
from gpuctl.core.offers import Requirements, rank
from gpuctl.core.profile import Profile


def test_the_default_is_the_cheapest_gpu_with_16_gb_and_bfloat16(account: Account) -> None:
    """On this price list an L4 or an A10G, each zone with its own price."""
    ranked = rank(find_offers(account, Requirements()), Requirements())
    best = ranked[0]
    assert best.instance_type.gpu in ("L4", "A10G")
    assert best.instance_type.gpus == 1
    assert best.market == "spot"
    assert best.price_usd_per_hour > 0
    same = [one for one in ranked if one.instance_type == best.instance_type]
    assert len({one.price_usd_per_hour for one in same}) > 1, "prices differ by zone"
    assert not {one.instance_type.gpu for one in ranked} & {"T4", "T4g", "V100"}


def test_few_round_trips_and_no_price_list_unless_on_demand_is_wanted(account: Account, cloud) -> None:
    """Five calls, at most two after one another."""
    find_offers(account, Requirements(gpu="a10g"))
    assert sorted(cloud.calls()) == [
        "DescribeInstanceTypeOfferings",
        "DescribeInstanceTypes",
        "DescribeRouteTables",
        "DescribeSpotPriceHistory",
        "DescribeSubnets",
    ]


@pytest.mark.parametrize(("gpu", "names"), [("t4", {"g4dn"}), ("A100-80gb", {"p4de"}), ("h100:8", {"p5"})])
def test_a_gpu_is_found_by_name(account: Account, gpu: str, names: set[str]) -> None:
    """Families are EC2's to know, not ours."""
    families = {one.instance_type.name.partition(".")[0] for one in find_offers(account, Requirements(gpu=gpu))}
    assert families == names


def test_a_wrong_name_costs_no_price_look_up(account: Account, cloud) -> None:
    """An unknown GPU or type is told before anything else is asked."""
    with pytest.raises(UsageError, match="A10G"):
        find_offers(account, Requirements(gpu="a10h"))
    with pytest.raises(UsageError, match=r"g5\.xlarge"):
        find_offers(account, Requirements(instance_type="g5.xlarg"))
    assert "DescribeSpotPriceHistory" not in cloud.calls()


def test_another_makers_gpu_will_not_do(account: Account) -> None:
    """AMD's GPUs and accelerators that are no GPU are told by name, not launched and then found wanting."""
    for name in ("g4ad.xlarge", "inf2.xlarge", "trn1.2xlarge"):
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            find_offers(account, Requirements(instance_type=name))


def test_a_type_without_a_gpu_can_be_asked_for_by_name(account: Account) -> None:
    """Whoever names it means it."""
    asked = account.client("ec2").describe_instance_types(InstanceTypes=["t3.large"])
    kind = as_instance_type(asked["InstanceTypes"][0])
    assert kind is not None
    assert (kind.name, kind.gpu, kind.gpus, kind.architecture) == ("t3.large", "", 0, "x86_64")
    assert {offer.instance_type for offer in find_offers(account, Requirements(instance_type="t3.large"))} == {kind}


def test_on_demand_prices_come_from_the_price_list(account: Account) -> None:
    """On demand every zone has one price, and spot is cheaper."""
    offers = find_offers(account, Requirements(gpu="l4", on_demand="fallback"))
    xlarge = [one for one in offers if one.instance_type.name == "g6.xlarge"]
    on_demand = {one.price_usd_per_hour for one in xlarge if one.market == "on-demand"}
    spot = {one.price_usd_per_hour for one in xlarge if one.market == "spot"}
    assert on_demand == {Decimal("0.8048")}
    assert max(spot) < min(on_demand)
    only = find_offers(account, Requirements(gpu="l4", on_demand="only"))
    assert {one.market for one in only} == {"on-demand"}


def test_zones_that_do_not_have_the_type_are_no_offers(account: Account) -> None:
    """Each offer is a type in a zone that EC2 says has it, with a default subnet."""
    offers = find_offers(account, Requirements(gpu="a10g"))
    pages = account.client("ec2").get_paginator("describe_instance_type_offerings")
    answers = pages.paginate(LocationType="availability-zone")
    having = {(one["InstanceType"], one["Location"]) for page in answers for one in page["InstanceTypeOfferings"]}
    assert {(one.instance_type.name, one.zone) for one in offers} <= having


def test_no_permission_for_prices_is_told(account: Account, cloud) -> None:
    """The error of a thread is the caller's error, as one of ours."""
    cloud.fault("DescribeSpotPriceHistory", code="UnauthorizedOperation", message="no")
    with pytest.raises(NotAllowed, match="ask for spot prices"):
        find_offers(account, Requirements(gpu="l4"))


def test_a_region_that_lacks_a_gpu_says_so(profile: Profile) -> None:
    """A GPU that is real and elsewhere is no capacity here: exit code 4."""
    with pytest.raises(NoCapacity, match="GB200 is not offered in this region"):
        find_offers(Account(profile, "eu-west-1"), Requirements(gpu="gb200"))


def test_only_whole_gpus_of_nvidia_are_gpus() -> None:
    """A slice of an L4 (g6f) is none: EC2 counts it as 0."""
    info = {
        "InstanceType": "g6f.large",
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "VCpuInfo": {"DefaultVCpus": 2},
        "MemoryInfo": {"SizeInMiB": 8192},
        "GpuInfo": {"Gpus": [{"Name": "L4", "Manufacturer": "NVIDIA", "Count": 0, "MemoryInfo": {"SizeInMiB": 2861}}]},
    }
    assert as_instance_type(info) is None  # type: ignore[arg-type]
    whole = {**info, "GpuInfo": {"Gpus": [{**info["GpuInfo"]["Gpus"][0], "Count": 1}]}}  # type: ignore[index]
    kind = as_instance_type(whole)  # type: ignore[arg-type]
    assert kind is not None
    assert (kind.gpu, kind.gpus) == ("L4", 1)


def test_a_price_list_is_read_as_aws_writes_it() -> None:
    """Hours alone, the price that is not 0, and None where there is none."""

    def product(unit: str, price: str) -> str:
        dimension = {"unit": unit, "pricePerUnit": {"USD": price}, "appliesTo": []}
        terms = {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": dimension}, "termAttributes": {}}}}
        return json.dumps({"product": {"attributes": {}}, "terms": terms})

    assert on_demand_price([product("Hrs", "1.0060000000")]) == Decimal("1.006")
    assert on_demand_price([product("Hrs", "0.0000000000"), product("Hrs", "1.5")]) == Decimal("1.5")
    assert on_demand_price([product("Quantity", "9"), '{"terms": {"Reserved": {}}}', "{}"]) is None
    assert on_demand_price([product("Hrs", "not a price")]) is None


def test_what_instances_cost_now_is_asked_for_once(planned, account: Account, cloud) -> None:
    """One call for all of them; each has the price of its type in its zone."""
    runs = [planned(), planned(), planned(market="on-demand")]
    for run in runs:
        run.start()
    names = {run.plan.run for run in runs}
    instances = [one for one in find_instances(account) if one.tags.run in names]
    cloud.clear()
    priced = prices(account, instances)
    assert cloud.calls().count("DescribeSpotPriceHistory") == 1
    assert [one.instance_id for one in priced] == [one.instance_id for one in instances]
    assert all(one.price_usd_per_hour for one in priced)
    by_market = {one.market: one.price_usd_per_hour for one in priced}
    assert by_market["on-demand"] == Decimal("0.8048")
    assert by_market["spot"] < by_market["on-demand"]


def test_prices_of_nothing_ask_nothing(account: Account, cloud) -> None:
    """An account without hosts costs no call."""
    assert prices(account, []) == []
    assert cloud.calls() == []


def test_no_price_list_leaves_the_price_open(planned, account: Account, cloud) -> None:
    """A caller who may not read it still sees the hosts."""
    run = planned(market="on-demand")
    run.start()
    cloud.fault("GetProducts", code="AccessDeniedException", times=-1)
    [priced] = prices(account, find_instances(account, run=run.plan.run))
    assert priced.price_usd_per_hour is None


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_image_is_found_by_its_public_parameter(account: Account, architecture: str) -> None:
    """Its root disk's name and size come with it."""
    image = find_image(account, architecture)
    assert image.image_id.startswith("ami-")
    assert image.architecture == architecture
    assert image.root_device.startswith("/dev/")
    assert image.root_gib > 8
    assert "Ubuntu 22.04" in image.name


def test_an_image_that_is_not_there_is_told(profile: Profile) -> None:
    """An architecture without an image, and a parameter that the region does not have."""
    with pytest.raises(UsageError, match="no image for riscv"):
        find_image(Account(profile), "riscv")
    elsewhere = replace(profile, image_parameters={"x86_64": "/aws/service/no/such/ami-id"})
    with pytest.raises(CloudError, match=r"us-east-1 has no image /aws/service/no/such/ami-id"):
        find_image(Account(elsewhere), "x86_64")
