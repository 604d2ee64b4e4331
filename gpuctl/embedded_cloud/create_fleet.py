"""CreateFleet of type `instant`, on moto's templates and subnets: EC2's request in, EC2's answer out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.utils import convert_tag_spec, random_fleet_id

from gpuctl.embedded_cloud import prices, run_instances
from gpuctl.embedded_cloud.allocation import Allocation, Pool, Refusal, Wish, allocate
from gpuctl.embedded_cloud.faults import Fault, Faults

_STRATEGIES = {
    "spot": (
        "lowest-price",
        "diversified",
        "capacity-optimized",
        "capacity-optimized-prioritized",
        "price-capacity-optimized",
    ),
    "on-demand": ("lowest-price", "prioritized"),
}
_CARRIED_OUT = {"InstanceType", "MaxPrice", "SubnetId", "AvailabilityZone", "Priority", "ImageId", "WeightedCapacity"}


@dataclass
class FleetRecord:
    """A fleet that was made: the request, the answer, and the instances, which outlive it."""

    fleet_id: str
    request: Mapping[str, Any]
    tags: list[dict[str, str]]
    instances: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    state: str = "active"
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def instance_ids(self) -> list[str]:
        """The ids of its instances, in the order of the answer."""
        return [instance_id for entry in self.instances for instance_id in entry["InstanceIds"]]

    def described(self) -> dict[str, Any]:
        """Itself as DescribeFleets tells it."""
        target = self.request.get("TargetCapacitySpecification") or {}
        fulfilled = {"spot": 0.0, "on-demand": 0.0}
        for entry in self.instances:
            fulfilled[entry["Lifecycle"]] += len(entry["InstanceIds"])
        return {
            "FleetId": self.fleet_id,
            "FleetState": self.state,
            "ActivityStatus": "fulfilled" if not self.errors else "error",
            "CreateTime": self.created,
            "Type": "instant",
            "ClientToken": self.request.get("ClientToken"),
            "TargetCapacitySpecification": target,
            "FulfilledCapacity": fulfilled["spot"] + fulfilled["on-demand"],
            "FulfilledOnDemandCapacity": fulfilled["on-demand"],
            "LaunchTemplateConfigs": self.request.get("LaunchTemplateConfigs") or [],
            "SpotOptions": self.request.get("SpotOptions"),
            "OnDemandOptions": self.request.get("OnDemandOptions"),
            "Instances": self.instances,
            "Errors": self.errors,
            "Tags": self.tags,
        }


def create_fleet(backend: Any, request: Mapping[str, Any], faults: Faults) -> tuple[FleetRecord, list[Any]]:
    """Makes the fleet and its instances, which are `pending`. Raises EC2ClientError, having made nothing."""
    if request.get("Type") != "instant":
        raise EC2ClientError("UnsupportedOperation", "The embedded cloud makes fleets of type instant alone")
    tags = convert_tag_spec(request.get("TagSpecifications") or [])
    own = [{"Key": key, "Value": value} for key, value in tags.get("fleet", {}).items()]
    record = FleetRecord(random_fleet_id(), request, own)
    made: list[Any] = []
    for market, wish in _wishes(request):
        pools = list(_pools(backend, request, market=market, unseen=faults.unseen.ids()))
        allocation = allocate(_with_faults(pools, faults, capacity=wish.capacity), wish)
        made += _carry_out(backend, allocation, record, tags=tags.get("instance", {}))
    return record, made


def _wishes(request: Mapping[str, Any]) -> Iterator[tuple[str, Wish]]:
    target = request.get("TargetCapacitySpecification") or {}
    total = int(target.get("TotalTargetCapacity") or 0)
    counts = {
        "spot": int(target.get("SpotTargetCapacity") or 0),
        "on-demand": int(target.get("OnDemandTargetCapacity") or 0),
    }
    if total < 1 or sum(counts.values()) > total:
        raise EC2ClientError("InvalidTargetCapacitySpecification", "The target capacity specification is not valid.")
    counts[target.get("DefaultTargetCapacityType") or "on-demand"] += total - sum(counts.values())
    for market, options_key in (("on-demand", "OnDemandOptions"), ("spot", "SpotOptions")):
        if counts[market]:
            yield market, _wish(request.get(options_key) or {}, market=market, capacity=counts[market])


def _wish(options: Mapping[str, Any], *, market: str, capacity: int) -> Wish:
    strategy = options.get("AllocationStrategy") or "lowest-price"
    if strategy not in _STRATEGIES[market]:
        raise EC2ClientError("InvalidParameterValue", f"Invalid allocation strategy {strategy} for {market}")
    wish = Wish(
        capacity=capacity,
        strategy=strategy,
        minimum=int(options.get("MinTargetCapacity") or 0),
        single_instance_type=options.get("SingleInstanceType") is True,
        single_zone=options.get("SingleAvailabilityZone") is True,
        max_total_usd_per_hour=Decimal(options["MaxTotalPrice"]) if options.get("MaxTotalPrice") else None,
    )
    if wish.minimum and not (wish.single_instance_type or wish.single_zone):
        raise EC2ClientError(
            "InvalidParameterCombination",
            "MinTargetCapacity wants SingleInstanceType or SingleAvailabilityZone to be specified",
        )
    return wish


def _pools(backend: Any, request: Mapping[str, Any], *, market: str, unseen: frozenset[str]) -> Iterator[Pool]:
    configs = request.get("LaunchTemplateConfigs") or []
    if not configs:
        raise EC2ClientError("MissingParameter", "The request must contain the parameter LaunchTemplateConfigs")
    for config in configs:
        version = template_version(backend, config.get("LaunchTemplateSpecification") or {})
        template = {
            "LaunchTemplateId": version.template.id,
            "LaunchTemplateName": version.template.name,
            "Version": str(version.number),
        }
        for override in config.get("Overrides") or [{}]:
            _require_known(override)
            data = {**version.data, **override}
            for subnet in _subnets(backend, data):
                pool = _pool(backend, data, subnet, market=market, template=template, override=override)
                missing = _unseen_part(data, version.template.id, unseen)
                yield replace(pool, refusal=missing) if missing else pool


def _unseen_part(data: Mapping[str, Any], template_id: str, unseen: frozenset[str]) -> Refusal | None:
    """What a pool says where its template, or a group of its template's, was made a moment ago."""
    if template_id in unseen:
        return Refusal(
            "InvalidLaunchTemplate", f"The specified launch template, with template ID {template_id}, does not exist."
        )
    interfaces = data.get("NetworkInterfaces") or []
    groups = [*(data.get("SecurityGroupIds") or []), *(g for one in interfaces for g in one.get("Groups") or [])]
    hidden = sorted(unseen.intersection(groups))
    if hidden:
        return Refusal("InvalidGroup.NotFound", f"The security group '{hidden[0]}' does not exist")
    return None


def _require_known(override: Mapping[str, Any]) -> None:
    unknown = sorted(set(override) - _CARRIED_OUT)
    if unknown or float(override.get("WeightedCapacity") or 1) != 1:
        name = unknown[0] if unknown else "WeightedCapacity"
        raise EC2ClientError("UnsupportedOperation", f"The embedded cloud does not carry out the override {name}")


def template_version(backend: Any, specification: Mapping[str, Any]) -> Any:
    """The version of a launch template that a specification means. Raises EC2ClientError."""
    if specification.get("LaunchTemplateId"):
        template = backend.get_launch_template(specification["LaunchTemplateId"])
    elif specification.get("LaunchTemplateName"):
        template = backend.get_launch_template_by_name(specification["LaunchTemplateName"])
    else:
        raise EC2ClientError("MissingParameter", "A launch template's id or name must be specified")
    return template.get_version(specification.get("Version") or "$Default")


def _subnets(backend: Any, data: Mapping[str, Any]) -> Iterable[Any]:
    """Where a pool may be: the subnet asked for, else the default subnet of the zone, else of every zone."""
    asked = run_instances.subnet_asked(data)
    if asked:
        return [backend.get_subnet(asked)]
    zone = data.get("AvailabilityZone") or (data.get("Placement") or {}).get("AvailabilityZone")
    if zone:
        return [default_subnet(backend, zone)]
    defaults: Mapping[str, Any] = backend.get_default_subnets()
    offered = [name for name in sorted(defaults) if _offered(data.get("InstanceType") or "", name)]
    return [defaults[name] for name in offered or sorted(defaults)[:1]]


def default_subnet(backend: Any, zone: str) -> Any:
    """A zone's default subnet. Raises EC2ClientError."""
    defaults = backend.get_default_subnets()
    if zone not in defaults:
        raise EC2ClientError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    return defaults[zone]


def _offered(instance_type: str, zone: str) -> bool:
    offerings = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(zone[:-1], [])
    return any(entry["InstanceType"] == instance_type and entry["Location"] == zone for entry in offerings)


def _pool(
    backend: Any,
    data: Mapping[str, Any],
    subnet: Any,
    *,
    market: str,
    template: dict[str, Any],
    override: Mapping[str, Any],
) -> Pool:
    instance_type = data.get("InstanceType") or ""
    zone = subnet.availability_zone
    vcpus = run_instances.vcpus(instance_type)
    if market == "spot":
        price = prices.spot(instance_type, zone=zone, vcpus=vcpus)
    else:
        price = prices.on_demand(instance_type, region=backend.region_name, vcpus=vcpus)
    return Pool(
        instance_type=instance_type,
        zone=zone,
        subnet_id=subnet.id,
        market=market,
        price_usd_per_hour=price,
        template=template,
        override=dict(override),
        priority=float(override.get("Priority") or 0),
        refusal=_refusal(backend, data, zone=zone, market=market, price=price),
    )


def _refusal(backend: Any, data: Mapping[str, Any], *, zone: str, market: str, price: Decimal) -> Refusal | None:
    instance_type = data.get("InstanceType") or ""
    try:
        run_instances.require_same_architecture(run_instances.image_of(backend, data.get("ImageId")), instance_type)
    except EC2ClientError as error:
        return Refusal(error.code, error.message)
    if not _offered(instance_type, zone):
        return Refusal(
            "Unsupported",
            f"Your requested instance type ({instance_type}) is not supported in your requested Availability Zone "
            f"({zone}).",
        )
    highest = data.get("MaxPrice")
    if market == "spot" and highest and Decimal(highest) < price:
        return Refusal(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {highest} is lower than the minimum required Spot request fulfillment "
            f"price of {price}.",
        )
    return None


def _with_faults(pools: Sequence[Pool], faults: Faults, *, capacity: int) -> list[Pool]:
    """The pools as the capacity faults leave them; a fault that some pool met counts this call."""
    left = list(pools)
    for fault in faults.capacity():
        met = False
        for index, pool in enumerate(left):
            if fault.matches_pool(instance_type=pool.instance_type, zone=pool.zone, market=pool.market):
                met = True
                left[index] = _less(pool, fault)
        if met and capacity:
            faults.use(fault)
    return left


def _less(pool: Pool, fault: Fault) -> Pool:
    less = replace(pool, available=min(fault.available, pool.available))
    if not fault.code or fault.code == "InsufficientInstanceCapacity":
        return less
    return replace(less, refusal=pool.refusal or Refusal(fault.code, fault.words))


def _carry_out(backend: Any, allocation: Allocation, record: FleetRecord, *, tags: Mapping[str, str]) -> Iterator[Any]:
    for pool, count in allocation.launched:
        version = template_version(backend, pool.template)
        request = run_instances.Request(
            data={**version.data, **pool.override},
            instance_type=pool.instance_type,
            subnet_id=pool.subnet_id,
            market=pool.market,
            count=count,
            tags={
                **tags,
                "aws:ec2:fleet-id": record.fleet_id,
                "aws:ec2launchtemplate:id": pool.template["LaunchTemplateId"],
                "aws:ec2launchtemplate:version": pool.template["Version"],
            },
        )
        instances = run_instances.launch(backend, request).instances
        record.instances.append({**_from(pool), "InstanceIds": [instance.id for instance in instances]})
        record.instances[-1]["InstanceType"] = pool.instance_type
        yield from instances
    for pool, refusal in allocation.errors:
        record.errors.append({**_from(pool), "ErrorCode": refusal.code, "ErrorMessage": refusal.message})


def _from(pool: Pool) -> dict[str, Any]:
    overrides = {**pool.override, "InstanceType": pool.instance_type, "AvailabilityZone": pool.zone}
    if not overrides.get("SubnetId"):
        overrides.pop("SubnetId", None)
    return {
        "LaunchTemplateAndOverrides": {"LaunchTemplateSpecification": pool.template, "Overrides": overrides},
        "Lifecycle": pool.market,
    }
