"""What hosts cost now: instance types with an NVIDIA GPU, the zones that have them, spot and on-demand prices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from gpuctl.aws.access import default_subnets
from gpuctl.aws.account import Account
from gpuctl.aws.errors import ErrorClass, aws_errors, classify, code_of
from gpuctl.aws.parallel import gather
from gpuctl.core.errors import CloudError, NotAllowed, UsageError
from gpuctl.core.hosts import Instance
from gpuctl.core.offers import InstanceType, Offer, Requirements, Subnet, suitable

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef

_GPU_FAMILIES = ["g*", "p*"]
"""EC2's families with GPUs begin with these letters; what is none of NVIDIA's is sorted out by what EC2 says of it."""
_PRICING_REGION = "us-east-1"
"""The Price List API has endpoints in a few regions and answers for all (aws-cn apart)."""
_LINUX = "Linux/UNIX"
_MIB_A_GIB = 1024
_FILTER_VALUES = 200

Prices = dict[tuple[str, str], Decimal]
"""Dollars an hour by instance type and zone."""


def find_offers(account: Account, wanted: Requirements) -> list[Offer]:
    """Every offer of an instance type that does, in the zones of the default network, in no order.

    Raises UsageError for a GPU or an instance type that is none, before anything but the types is asked for.
    """
    kinds, subnets = _kinds_and_subnets(account, wanted)
    names = [kind.name for kind in kinds]
    calls: list[Callable[[], Any]] = [lambda: _offered(account, names)]
    calls.append(lambda: spot_prices(account, names) if "spot" in wanted.markets else {})
    calls.append(lambda: on_demand_prices(account, names) if "on-demand" in wanted.markets else {})
    offered, spot, on_demand = gather(calls)
    offers: list[Offer] = []
    for kind, subnet in ((kind, subnet) for kind in kinds for subnet in subnets):
        pool = (kind.name, subnet.zone)
        if pool in offered and pool in spot:
            offers.append(Offer(kind, subnet, "spot", spot[pool]))
        if pool in offered and kind.name in on_demand:
            offers.append(Offer(kind, subnet, "on-demand", on_demand[kind.name]))
    return offers


def prices(account: Account, instances: Sequence[Instance]) -> list[Instance]:
    """The same instances with what an hour of each costs now; None where AWS does not say. One call a market."""
    now = [one for one in instances if one.state != "terminated"]
    spot_types = sorted({one.instance_type for one in now if one.market == "spot"})
    other_types = sorted({one.instance_type for one in now if one.market != "spot"})
    spot, on_demand = gather(
        [
            lambda: spot_prices(account, spot_types) if spot_types else {},
            lambda: _on_demand_if_known(account, other_types) if other_types else {},
        ]
    )

    def price(one: Instance) -> Decimal | None:
        if one.market == "spot":
            return spot.get((one.instance_type, one.zone))
        return on_demand.get((one.instance_type, ""))

    return [replace(one, price_usd_per_hour=price(one)) for one in instances]


def spot_prices(account: Account, names: Sequence[str]) -> Prices:
    """The newest spot price of each type in each zone. From now on means: what holds now (DescribeSpotPriceHistory)."""
    newest: dict[tuple[str, str], datetime] = {}
    found: Prices = {}
    with aws_errors("ask for spot prices"):
        pages = account.client("ec2").get_paginator("describe_spot_price_history")
        types: Any = list(names)
        history: Any = pages.paginate(
            InstanceTypes=types, ProductDescriptions=[_LINUX], StartTime=datetime.now(timezone.utc)
        )
        for page in history:
            for row in page["SpotPriceHistory"]:
                pool = (row["InstanceType"], row["AvailabilityZone"])
                price = _money(row["SpotPrice"])
                if price is not None and (pool not in newest or row["Timestamp"] > newest[pool]):
                    newest[pool], found[pool] = row["Timestamp"], price
    return found


def on_demand_prices(account: Account, names: Sequence[str]) -> dict[str, Decimal]:
    """The on-demand price of each type in the account's region, where the price list has one."""

    def ask(name: str) -> Decimal | None:
        filters = {
            "instanceType": name,
            "regionCode": account.region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "licenseModel": "No License required",
        }
        terms = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in filters.items()]
        with aws_errors("ask for on-demand prices"):
            client = account.client("pricing", region=_PRICING_REGION)
            return on_demand_price(client.get_products(ServiceCode="AmazonEC2", Filters=terms)["PriceList"])

    found = gather([lambda name=name: ask(name) for name in names])  # type: ignore[misc]
    return {name: price for name, price in zip(names, found, strict=True) if price is not None}


def on_demand_price(price_list: Iterable[str | Mapping[str, Any]]) -> Decimal | None:
    """The price an hour in a price list's products (JSON texts); the lowest that is not 0, None where there is none."""
    found = []
    for product in price_list:
        data = json.loads(product) if isinstance(product, str) else product
        for term in data.get("terms", {}).get("OnDemand", {}).values():
            for dimension in term.get("priceDimensions", {}).values():
                price = _money(dimension.get("pricePerUnit", {}).get("USD", ""))
                if dimension.get("unit") == "Hrs" and price:
                    found.append(price)
    return min(found, default=None)


def _on_demand_if_known(account: Account, names: Sequence[str]) -> Prices:
    """On-demand prices by type, under no zone. A cloud or a caller without a price list still has its instances."""
    try:
        return {(name, ""): price for name, price in on_demand_prices(account, names).items()}
    except (CloudError, NotAllowed):
        return {}


def _kinds_and_subnets(account: Account, wanted: Requirements) -> tuple[list[InstanceType], list[Subnet]]:
    account.client("ec2")
    calls: list[Callable[[], Any]] = [lambda: _instance_types(account, wanted), lambda: default_subnets(account)]
    kinds, subnets = gather(calls)
    images = account.profile.image_parameters
    return [kind for kind in suitable(kinds, wanted) if kind.architecture in images], subnets


def _instance_types(account: Account, wanted: Requirements) -> list[InstanceType]:
    """All types with an NVIDIA GPU, and the one that is wanted by name."""
    named = wanted.instance_type.strip().lower() if wanted.instance_type else None
    with aws_errors("list the instance types"):
        if named is not None:
            found = _describe_named(account, named)
            if found is not None:
                return [_usable(found)]
        pages = account.client("ec2").get_paginator("describe_instance_types")
        filters: Any = [{"Name": "instance-type", "Values": _GPU_FAMILIES}]
        infos = [info for page in pages.paginate(Filters=filters) for info in page["InstanceTypes"]]
        kinds = [as_instance_type(info) for info in infos if not info.get("BareMetal")]
    return [kind for kind in kinds if kind is not None and kind.gpus]


def _describe_named(account: Account, name: str) -> InstanceTypeInfoTypeDef | None:
    ec2 = account.client("ec2")
    try:
        asked: Any = [name]
        return ec2.describe_instance_types(InstanceTypes=asked)["InstanceTypes"][0]
    except ec2.exceptions.ClientError as error:
        if code_of(error) in ("InvalidInstanceType", "InvalidParameterValue"):
            return None
        if classify(code_of(error)) is ErrorClass.GONE:
            return None
        raise


def _usable(info: InstanceTypeInfoTypeDef) -> InstanceType:
    kind = as_instance_type(info)
    if kind is None:
        makers = [
            f"{gpu.get('Manufacturer', '')} {gpu.get('Name', '')}" for gpu in info.get("GpuInfo", {}).get("Gpus", [])
        ]
        has = ", ".join(makers) or "an accelerator that is not a GPU"
        raise UsageError(f"{info['InstanceType']} has {has}", "only whole NVIDIA GPUs can be used: see `gpuctl offers`")
    return kind


def as_instance_type(info: InstanceTypeInfoTypeDef) -> InstanceType | None:
    """A type of DescribeInstanceTypes; None where its accelerator is not whole GPUs of NVIDIA's, all of one name."""
    gpus = info.get("GpuInfo", {}).get("Gpus", [])
    others = ("InferenceAcceleratorInfo", "NeuronInfo", "FpgaInfo", "MediaAcceleratorInfo")
    if len(gpus) > 1 or (not gpus and any(other in info for other in others)):
        return None
    if gpus and (gpus[0].get("Manufacturer", "").upper() != "NVIDIA" or not gpus[0].get("Count")):
        return None
    known = info.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    return InstanceType(
        name=info["InstanceType"],
        architecture=next((one for one in ("x86_64", "arm64") if one in known), ""),
        gpu=gpus[0].get("Name", "") if gpus else "",
        gpus=gpus[0].get("Count", 0) if gpus else 0,
        gpu_memory_gib=_gib(gpus[0].get("MemoryInfo", {}).get("SizeInMiB", 0)) if gpus else Decimal(0),
    )


def _offered(account: Account, names: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs of instance type and zone that exist."""
    found: set[tuple[str, str]] = set()
    with aws_errors("ask which zones have the instance types"):
        pages = account.client("ec2").get_paginator("describe_instance_type_offerings")
        for start in range(0, len(names), _FILTER_VALUES):
            filters: Any = [{"Name": "instance-type", "Values": list(names[start : start + _FILTER_VALUES])}]
            for page in pages.paginate(LocationType="availability-zone", Filters=filters):
                found |= {(one["InstanceType"], one["Location"]) for one in page["InstanceTypeOfferings"]}
    return found


def _gib(mib: int) -> Decimal:
    return (Decimal(mib) / _MIB_A_GIB).quantize(Decimal("0.1"))


def _money(text: str) -> Decimal | None:
    try:
        price = Decimal(text)
    except InvalidOperation:
        return None
    return price if price.is_finite() and price >= 0 else None
