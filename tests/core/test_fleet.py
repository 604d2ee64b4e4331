"""The requests that make hosts, as values."""

from __future__ import annotations

import base64
import json
import re
from decimal import Decimal
from typing import Any

import pytest
from botocore.session import Session
from botocore.validate import ParamValidator

from gpuctl.core.fleet import client_token, fleet_request, template_request
from gpuctl.core.plan import Attempt, Plan
from tests.plans import SUBNETS, a_plan, a_pool, an_attempt


def a_template(plan: Plan | None = None, *, user_data: str = "#cloud-config\n{}\n") -> dict[str, Any]:
    plan = plan or a_plan()
    return template_request(plan, plan.attempts[0], group_id="sg-0123456789abcdef0", user_data=user_data)


def a_fleet(attempt: Attempt | None = None, *, run: str = "char-rnn-k3f9", hosts: int = 1) -> dict[str, Any]:
    plan = a_plan(attempt or an_attempt(), run=run)
    return fleet_request(plan, plan.attempts[0], template=a_template(), hosts=hosts)


def problems(operation: str, request: dict[str, Any]) -> str:
    """What botocore's own model of the EC2 API has against a request."""
    shape = Session().get_service_model("ec2").operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    return str(report.generate_report())


def allowed_values(operation: str, request: dict[str, Any]) -> None:
    """Every value of an enumeration in the request is one that EC2 has (botocore validates types alone)."""

    def walk(shape: Any, value: Any, path: str) -> None:
        if shape.type_name == "structure":
            for name, inner in value.items():
                walk(shape.members[name], inner, f"{path}.{name}")
        elif shape.type_name == "list":
            for inner in value:
                walk(shape.member, inner, path)
        elif shape.type_name == "string" and shape.enum and path.rpartition(".")[2] != "InstanceType":
            assert value in shape.enum, path

    walk(Session().get_service_model("ec2").operation_model(operation).input_shape, request, operation)


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CreateLaunchTemplate", a_template()),
        ("CreateFleet", a_fleet()),
        ("CreateFleet", a_fleet(hosts=4)),
        ("CreateFleet", a_fleet(an_attempt(market="on-demand"))),
        ("CreateFleet", a_fleet(an_attempt(max_price_usd_per_hour=Decimal("0.5")))),
    ],
)
def test_the_requests_are_ones_that_ec2_knows(operation: str, request_: dict[str, Any]) -> None:
    """Every parameter is in EC2's model, of the right type, and every word of a list of words is in the list."""
    assert problems(operation, request_) == ""
    allowed_values(operation, request_)


@pytest.mark.parametrize("request_", [a_template(), a_fleet(an_attempt(max_price_usd_per_hour=Decimal("0.5")))])
def test_a_request_comes_back_from_its_file_as_it_was(request_: dict[str, Any]) -> None:
    """run.json keeps it, and a lost answer is asked for again with exactly the same words."""
    assert json.loads(json.dumps(request_)) == request_


def test_what_the_template_says_of_a_host() -> None:
    """IMDSv2 alone, one hop; off means terminated; an encrypted gp3 root that goes with its host; no key pair."""
    request = a_template()
    data = request["LaunchTemplateData"]
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/sda1",
            "Ebs": {"VolumeSize": 100, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
        }
    ]
    assert data["NetworkInterfaces"] == [
        {
            "DeviceIndex": 0,
            "AssociatePublicIpAddress": True,
            "DeleteOnTermination": True,
            "Groups": ["sg-0123456789abcdef0"],
        }
    ]
    assert base64.b64decode(data["UserData"]) == b"#cloud-config\n{}\n"
    assert "KeyName" not in data
    assert "SecurityGroupIds" not in data, "EC2 refuses groups beside a network interface"
    assert "InstanceMarketOptions" not in data, "the market is the fleet's"


def test_everything_is_tagged_by_the_call_that_creates_it() -> None:
    """Template, volume, interface, fleet and instance carry the run's tags; none needs a second call."""
    template, fleet = a_template(), a_fleet()
    specifications = [
        *template["TagSpecifications"],
        *template["LaunchTemplateData"]["TagSpecifications"],
        *fleet["TagSpecifications"],
    ]
    kinds = [one["ResourceType"] for one in specifications]
    assert kinds == ["launch-template", "volume", "network-interface", "fleet", "instance"]
    for one in specifications:
        assert {tag["Key"]: tag["Value"] for tag in one["Tags"]} == a_plan().tags.as_dict()


def test_a_fleet_of_one_may_come_from_any_pool() -> None:
    """One host is all or nothing by itself; every choice is a pool, in its zone's subnet, each once."""
    request = a_fleet()
    assert request["Type"] == "instant"
    assert request["TargetCapacitySpecification"] == {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"}
    assert request["SpotOptions"] == {
        "AllocationStrategy": "price-capacity-optimized",
        "InstanceInterruptionBehavior": "terminate",
    }
    [config] = request["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"]["LaunchTemplateName"] == a_template()["LaunchTemplateName"]
    pools = [(one["InstanceType"], one["AvailabilityZone"], one["SubnetId"]) for one in config["Overrides"]]
    assert pools == [
        ("g6.xlarge", "us-east-1a", SUBNETS["us-east-1a"]),
        ("g5.xlarge", "us-east-1b", SUBNETS["us-east-1b"]),
        ("g6.xlarge", "us-east-1b", SUBNETS["us-east-1b"]),
    ]


def test_a_fleet_of_several_is_all_or_nothing() -> None:
    """EC2 takes a minimum only together with a single zone or a single type."""
    options = a_fleet(hosts=4)["SpotOptions"]
    assert options["MinTargetCapacity"] == 4
    assert options["SingleAvailabilityZone"] is True
    assert options["SingleInstanceType"] is True


def test_a_maximum_price_is_every_pools() -> None:
    """It is EC2 that holds it, too: a price that moves after the plan was made does not slip through."""
    overrides = a_fleet(an_attempt(max_price_usd_per_hour=Decimal("5E-1")))["LaunchTemplateConfigs"][0]["Overrides"]
    assert {one["MaxPrice"] for one in overrides} == {"0.5"}
    assert all("MaxPrice" not in one for one in a_fleet()["LaunchTemplateConfigs"][0]["Overrides"])


def test_an_on_demand_fleet_has_nothing_of_spot() -> None:
    """No spot options and no maximum price, which EC2 would refuse."""
    request = a_fleet(an_attempt(market="on-demand", max_price_usd_per_hour=Decimal(2)))
    assert "SpotOptions" not in request
    assert request["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "on-demand"
    assert all("MaxPrice" not in one for one in request["LaunchTemplateConfigs"][0]["Overrides"])


def test_the_same_request_has_the_same_token_and_any_other_another() -> None:
    """A call made again finds what it made; another attempt, run or word makes something new."""
    assert a_fleet()["ClientToken"] == a_fleet()["ClientToken"]
    others = [
        a_fleet(an_attempt(number=2)),
        a_fleet(hosts=2),
        a_fleet(run="char-rnn-zzzz"),
        a_fleet(an_attempt(max_price_usd_per_hour=Decimal(1))),
    ]
    tokens = {a_fleet()["ClientToken"], *(one["ClientToken"] for one in others)}
    assert len(tokens) == 1 + len(others)
    assert all(re.fullmatch(r"[0-9a-f]{40}", token) for token in tokens), "EC2 takes at most 64 ASCII characters"
    first = {"a": 1, "b": 2}
    assert client_token("r", attempt=1, request=first) == client_token("r", attempt=1, request={"b": 2, "a": 1})


def test_a_templates_name_says_its_run_and_its_content() -> None:
    """Two contents never share a name, and the name is one that EC2 takes."""
    names = {a_template()["LaunchTemplateName"], a_template(user_data="#cloud-config\n{} \n")["LaunchTemplateName"]}
    assert len(names) == 2
    assert all(re.fullmatch(r"gpuctl-char-rnn-k3f9-[0-9a-f]{8}", name) for name in names)


def test_user_data_that_ec2_would_refuse_is_refused_here() -> None:
    """16 KB before base64."""
    assert a_template(user_data="x" * 16384)
    with pytest.raises(ValueError, match="16385 bytes"):
        a_template(user_data="é" + "x" * 16383)


def test_a_fleet_is_one_host_or_more() -> None:
    """What cannot be a call is not made into one."""
    with pytest.raises(ValueError, match="one host or more"):
        a_fleet(hosts=0)


def test_each_pool_is_an_override_in_its_own_subnet() -> None:
    """EC2 is told of no other."""
    request = a_fleet(an_attempt(a_pool(zone="us-east-1b")))
    [override] = request["LaunchTemplateConfigs"][0]["Overrides"]
    assert override == {
        "InstanceType": "g6.xlarge",
        "AvailabilityZone": "us-east-1b",
        "SubnetId": SUBNETS["us-east-1b"],
    }
