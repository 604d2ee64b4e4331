"""CreateFleet: what it launches, from where, and what it refuses."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError
from cloud_fixtures import Cloud, ids


@pytest.fixture
def template(cloud: Cloud) -> str:
    return cloud.template(f"t-{uuid.uuid4()}")


def price(cloud: Cloud, instance_type: str, zone: str) -> Decimal:
    answer = cloud.ec2.describe_spot_price_history(
        InstanceTypes=[instance_type], AvailabilityZone=zone, ProductDescriptions=["Linux/UNIX"]
    )
    return Decimal(answer["SpotPriceHistory"][0]["SpotPrice"])


def errors(answer: dict[str, Any]) -> set[str]:
    return {error["ErrorCode"] for error in answer["Errors"]}


def test_describe_instances_tells_what_the_template_and_the_fleet_asked_for(cloud: Cloud) -> None:
    """A spot instance of a fleet has all that its template says: options, disk, groups, tags, no key pair."""
    group = cloud.group(f"g-{uuid.uuid4()}")
    name = f"run-{uuid.uuid4()}"
    template_id = cloud.template(name, groups=[group])
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "gpuctl:job", "Value": "char_rnn"}]}]
    answer = cloud.fleet(template_id, TagSpecifications=tags)
    (instance_id,) = ids(answer)
    assert answer["Errors"] == []
    instance = cloud.wait_for_state(instance_id, "running")

    assert instance["InstanceLifecycle"] == "spot"
    assert instance["SpotInstanceRequestId"].startswith("sir-")
    assert instance["InstanceType"] == "g5.xlarge"
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1a"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert [entry["GroupId"] for entry in instance["SecurityGroups"]] == [group]
    assert "KeyName" not in instance
    found = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert found["gpuctl:run"] == name
    assert found["gpuctl:job"] == "char_rnn"
    assert found["aws:ec2:fleet-id"] == answer["FleetId"]

    behaviour = cloud.ec2.describe_instance_attribute(
        InstanceId=instance_id, Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    (device,) = instance["BlockDeviceMappings"]
    assert device["DeviceName"] == "/dev/sda1"
    assert device["Ebs"]["DeleteOnTermination"] is True
    (volume,) = cloud.ec2.describe_volumes(VolumeIds=[device["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Encrypted"], volume["Size"], volume["VolumeType"]) == (True, 100, "gp3")
    assert {"Key": "gpuctl:run", "Value": name} in volume["Tags"]
    (interface,) = instance["NetworkInterfaces"]
    (described,) = cloud.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface["NetworkInterfaceId"]])[
        "NetworkInterfaces"
    ]
    assert {"Key": "gpuctl:run", "Value": name} in described["TagSet"]
    (request,) = cloud.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[instance["SpotInstanceRequestId"]])[
        "SpotInstanceRequests"
    ]
    assert (request["InstanceId"], request["State"]) == (instance_id, "active")


def test_instances_are_found_by_tag_and_state(cloud: Cloud) -> None:
    """DescribeInstances with filters finds a run's instances and no other."""
    name = f"run-{uuid.uuid4()}"
    (instance_id,) = ids(cloud.fleet(cloud.template(name)))
    filters = [
        {"Name": "tag:gpuctl:run", "Values": [name]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    found = cloud.ec2.describe_instances(Filters=filters)["Reservations"]
    assert [entry["InstanceId"] for one in found for entry in one["Instances"]] == [instance_id]


def test_the_cheapest_pool_is_taken(cloud: Cloud, template: str) -> None:
    """Of several types and zones the fleet launches where the spot price is lowest."""
    overrides = [
        {"InstanceType": instance_type, "AvailabilityZone": f"us-east-1{letter}"}
        for instance_type in ("g5.xlarge", "g4dn.xlarge", "g6.xlarge")
        for letter in "abcd"
    ]
    cheapest = min(overrides, key=lambda pool: price(cloud, pool["InstanceType"], pool["AvailabilityZone"]))
    (entry,) = cloud.fleet(template, *overrides, count=3)["Instances"]
    assert len(entry["InstanceIds"]) == 3
    assert entry["Lifecycle"] == "spot"
    placed = cloud.instance(entry["InstanceIds"][0])
    assert (placed["InstanceType"], placed["Placement"]["AvailabilityZone"]) == tuple(cheapest.values())


def test_a_pool_whose_price_is_above_the_maximum_is_refused(cloud: Cloud, template: str) -> None:
    """MaxPrice below the market's price gives no instance and says why, next to a pool that serves."""
    zone = "us-east-1a"
    low = str(price(cloud, "g5.xlarge", zone) - Decimal("0.01"))
    dear = {"InstanceType": "g5.xlarge", "AvailabilityZone": zone, "MaxPrice": low}
    answer = cloud.fleet(template, dear)
    assert ids(answer) == []
    assert errors(answer) == {"SpotMaxPriceTooLow"}
    assert answer["Errors"][0]["LaunchTemplateAndOverrides"]["Overrides"]["InstanceType"] == "g5.xlarge"
    assert len(ids(cloud.fleet(template, dear, {"InstanceType": "g5.2xlarge", "AvailabilityZone": zone}))) == 1


def test_a_total_price_limits_how_many_are_launched(cloud: Cloud, template: str) -> None:
    """MaxTotalPrice stops the fleet before it is passed; below one instance's price nothing is launched."""
    one = price(cloud, "g5.xlarge", "us-east-1a")
    assert len(ids(cloud.fleet(template, count=3, options={"MaxTotalPrice": str(one * 2)}))) == 2
    answer = cloud.fleet(template, options={"MaxTotalPrice": str(one / 2)})
    assert (ids(answer), errors(answer)) == ([], {"UnfulfillableCapacity"})


def test_on_demand_instances_are_not_spot(cloud: Cloud, template: str) -> None:
    """DefaultTargetCapacityType on-demand launches instances without a lifecycle, as EC2 tells them."""
    (instance_id,) = ids(cloud.fleet(template, market="on-demand"))
    assert "InstanceLifecycle" not in cloud.instance(instance_id)


def test_a_type_that_a_zone_does_not_offer_is_refused(cloud: Cloud, template: str) -> None:
    """A pool that cannot exist is an error of the answer, not of the call."""
    answer = cloud.fleet(
        template,
        {"InstanceType": "g5.xlarge", "AvailabilityZone": "us-east-1e"},
        {"InstanceType": "g5g.xlarge", "AvailabilityZone": "us-east-1a"},
        {"InstanceType": "g9.huge", "AvailabilityZone": "us-east-1a"},
    )
    assert (ids(answer), errors(answer)) == ([], {"Unsupported", "InvalidParameterValue"})


def test_a_subnet_decides_the_zone(cloud: Cloud, template: str) -> None:
    """An override may name a subnet where it does not name a zone."""
    (subnet,) = cloud.ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1c"]}])["Subnets"]
    (instance_id,) = ids(cloud.fleet(template, {"InstanceType": "g6.xlarge", "SubnetId": subnet["SubnetId"]}))
    instance = cloud.instance(instance_id)
    assert (instance["Placement"]["AvailabilityZone"], instance["SubnetId"]) == ("us-east-1c", subnet["SubnetId"])


def test_the_same_client_token_launches_once(cloud: Cloud, template: str) -> None:
    """A request that is made again has the first one's answer; with other parameters it is refused."""
    token = str(uuid.uuid4())
    first = cloud.fleet(template, ClientToken=token)
    again = cloud.fleet(template, ClientToken=token)
    assert (again["FleetId"], ids(again)) == (first["FleetId"], ids(first))
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        cloud.fleet(template, count=2, ClientToken=token)


def test_a_lost_answer_is_had_again(cloud: Cloud, template: str) -> None:
    """A connection that closes after CreateFleet was carried out loses no instance: the token finds it."""
    token = str(uuid.uuid4())
    cloud.fault(operation="CreateFleet", drop=True)
    with pytest.raises(HTTPClientError):
        cloud.fleet(template, ClientToken=token)
    (instance_id,) = ids(cloud.fleet(template, ClientToken=token))
    filters = [{"Name": "tag:aws:ec2launchtemplate:id", "Values": [template]}]
    found = cloud.ec2.describe_instances(Filters=filters)["Reservations"]
    assert [entry["InstanceId"] for one in found for entry in one["Instances"]] == [instance_id]


def test_a_pool_without_capacity_is_passed_over(cloud: Cloud, template: str) -> None:
    """A capacity fault takes one zone away: the fleet launches in the other, and says nothing of a lack."""
    cloud.fault(operation="CreateFleet", code="InsufficientInstanceCapacity", zone="us-east-1c", times=-1)
    zones = [{"InstanceType": "g5.xlarge", "AvailabilityZone": f"us-east-1{letter}"} for letter in "ca"]
    (instance_id,) = ids(cloud.fleet(template, *zones))
    assert cloud.instance(instance_id)["Placement"]["AvailabilityZone"] == "us-east-1a"
    answer = cloud.fleet(template, zones[0])
    assert (ids(answer), errors(answer)) == ([], {"InsufficientInstanceCapacity"})


def test_a_capacity_fault_counts_calls(cloud: Cloud, template: str) -> None:
    """`times: 1` empties every pool for one CreateFleet, not the next."""
    cloud.fault(operation="CreateFleet", code="InsufficientInstanceCapacity", capacity=True)
    zones = [{"InstanceType": "g5.xlarge", "AvailabilityZone": f"us-east-1{letter}"} for letter in "ab"]
    answer = cloud.fleet(template, *zones)
    assert (ids(answer), len(answer["Errors"])) == ([], 2)
    assert len(ids(cloud.fleet(template, *zones))) == 1


def test_below_the_minimum_nothing_is_launched(cloud: Cloud, template: str) -> None:
    """MinTargetCapacity in one zone is all or nothing, although two zones together would have enough."""
    cloud.fault(operation="CreateFleet", capacity=True, available=2, times=-1)
    zones = [{"InstanceType": "g5.xlarge", "AvailabilityZone": f"us-east-1{letter}"} for letter in "ab"]
    together = {"SingleInstanceType": True, "SingleAvailabilityZone": True, "MinTargetCapacity": 3}
    answer = cloud.fleet(template, *zones, count=3, options=together)
    assert (ids(answer), errors(answer)) == ([], {"InsufficientInstanceCapacity"})
    assert len(ids(cloud.fleet(template, *zones, count=3))) == 3
    assert len(ids(cloud.fleet(template, *zones, count=2, options={**together, "MinTargetCapacity": 2}))) == 2
    with pytest.raises(ClientError, match="InvalidParameterCombination"):
        cloud.fleet(template, *zones, count=3, options={"MinTargetCapacity": 3})


def test_a_volume_smaller_than_its_image_is_refused(cloud: Cloud) -> None:
    """A root volume cannot be smaller than the image's snapshot, as on EC2."""
    devices = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 20}}]
    template_id = cloud.template(f"t-{uuid.uuid4()}", BlockDeviceMappings=devices)
    with pytest.raises(ClientError, match="smaller than snapshot"):
        cloud.fleet(template_id)


def test_fleets_are_described_and_deleted_with_their_instances(cloud: Cloud, template: str) -> None:
    """A fleet can be found with its tags, and deleting it ends its instances."""
    tags = [{"ResourceType": "fleet", "Tags": [{"Key": "gpuctl:run", "Value": "x"}]}]
    answer = cloud.fleet(template, count=2, TagSpecifications=tags)
    (fleet,) = cloud.ec2.describe_fleets(FleetIds=[answer["FleetId"]])["Fleets"]
    assert (fleet["Type"], fleet["FulfilledCapacity"], fleet["Tags"]) == ("instant", 2.0, tags[0]["Tags"])
    cloud.ec2.delete_fleets(FleetIds=[answer["FleetId"]], TerminateInstances=True)
    for instance_id in ids(answer):
        cloud.wait_for_state(instance_id, "terminated")


def test_a_fleet_of_another_type_is_refused(cloud: Cloud, template: str) -> None:
    """What the embedded cloud does not carry out is an error, never a silence."""
    with pytest.raises(ClientError, match="UnsupportedOperation"):
        cloud.fleet(template, Type="maintain")
    with pytest.raises(ClientError, match="UnsupportedOperation"):
        cloud.fleet(template, {"InstanceType": "g5.xlarge", "WeightedCapacity": 2.0})


def test_run_instances_honours_a_template_too(cloud: Cloud, template: str) -> None:
    """RunInstances takes from a template what the request does not say, and launches as many as it may."""
    answer = cloud.ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": template}, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=2
    )
    assert len(answer["Instances"]) == 2
    instance = cloud.instance(answer["Instances"][0]["InstanceId"])
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["InstanceType"] == "g4dn.xlarge"
    assert "InstanceLifecycle" not in instance
