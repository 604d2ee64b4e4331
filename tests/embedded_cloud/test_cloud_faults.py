"""Faults of what lies between: things that are not seen yet, and answers that are none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.parsers import ResponseParserError
from cloud_fixtures import Cloud, ids, until


@pytest.fixture
def seen_again(cloud: Cloud) -> Iterator[Callable[[], None]]:
    """Has everything seen from now on."""
    yield lambda: assert_cleared(cloud)
    assert_cleared(cloud)


def assert_cleared(cloud: Cloud) -> None:
    assert cloud.ask("/gpuctl/faults", method="DELETE")[0] == 200


def code(call: Callable[..., Any], **parameters: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**parameters)
    return str(error.value.response["Error"]["Code"])


def test_an_instance_is_not_seen_for_a_while(cloud: Cloud, seen_again: Callable[[], None]) -> None:
    """By its id it is not found, by a filter it is left out, with its disk; once seen, all of it is there, in order."""
    run = f"t-{uuid.uuid4()}"
    template = cloud.template(run)
    others = ids(cloud.fleet(template))
    cloud.fault(operation="CreateFleet", unseen_s=60)
    (hidden,) = ids(cloud.fleet(template))
    others += ids(cloud.fleet(template))
    filters: Any = [{"Name": "tag:gpuctl:run", "Values": [run]}]

    def listed() -> list[str]:
        held = cloud.ec2.describe_instances(Filters=filters)["Reservations"]
        return [one["InstanceId"] for reservation in held for one in reservation["Instances"]]

    assert code(cloud.ec2.describe_instances, InstanceIds=[hidden]) == "InvalidInstanceID.NotFound"
    assert code(cloud.ec2.terminate_instances, InstanceIds=[hidden]) == "InvalidInstanceID.NotFound"
    assert listed() == others
    volumes = len(cloud.ec2.describe_volumes(Filters=filters)["Volumes"])
    seen_again()
    assert listed() == [others[0], hidden, others[1]]
    assert len(cloud.ec2.describe_volumes(Filters=filters)["Volumes"]) == volumes + 1
    cloud.ec2.terminate_instances(InstanceIds=[hidden, *others])


def test_a_template_that_is_not_seen_fails_the_fleets_pools(cloud: Cloud, seen_again: Callable[[], None]) -> None:
    """The fleet's answer says so for each pool, and says it again to the same token; its name stays taken."""
    name, token = f"t-{uuid.uuid4()}", str(uuid.uuid4())
    cloud.fault(operation="CreateLaunchTemplate", unseen_s=60)
    template = cloud.template(name)
    zones = [{"InstanceType": "g5.xlarge", "AvailabilityZone": f"us-east-1{letter}"} for letter in "ab"]
    answer = cloud.fleet(template, *zones, ClientToken=token)
    assert (ids(answer), [error["ErrorCode"] for error in answer["Errors"]]) == ([], ["InvalidLaunchTemplate"] * 2)
    assert code(cloud.ec2.delete_launch_template, LaunchTemplateId=template).endswith("NotFound")
    assert code(cloud.ec2.describe_launch_templates, LaunchTemplateNames=[name]).endswith("NotFoundException")
    data = {"ImageId": "ami-0123456789abcdef0"}
    assert "AlreadyExists" in code(cloud.ec2.create_launch_template, LaunchTemplateName=name, LaunchTemplateData=data)
    seen_again()
    assert ids(cloud.fleet(template, *zones, ClientToken=token)) == []
    assert len(ids(cloud.fleet(template, *zones, ClientToken=token[:-1]))) == 1


def test_a_group_that_is_not_seen(cloud: Cloud, seen_again: Callable[[], None]) -> None:
    """It cannot be found, changed or deleted, and a fleet cannot use it; its name stays taken; then it is there."""
    name = f"g-{uuid.uuid4()}"
    cloud.fault(operation="CreateSecurityGroup", unseen_s=60)
    group = cloud.ec2.create_security_group(GroupName=name, Description=name)["GroupId"]
    assert code(cloud.ec2.describe_security_groups, GroupIds=[group]) == "InvalidGroup.NotFound"
    rule: Any = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "127.0.0.1/32"}]}
    change = {"GroupId": group, "IpPermissions": [rule]}
    assert code(cloud.ec2.authorize_security_group_ingress, **change) == "InvalidGroup.NotFound"
    assert code(cloud.ec2.delete_security_group, GroupId=group) == "InvalidGroup.NotFound"
    assert code(cloud.ec2.create_security_group, GroupName=name, Description=name) == "InvalidGroup.Duplicate"
    answer = cloud.fleet(cloud.template(f"t-{uuid.uuid4()}", groups=[group]))
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InvalidGroup.NotFound"]
    seen_again()
    cloud.ec2.delete_security_group(GroupId=group)


def test_it_is_seen_once_the_time_has_passed(cloud: Cloud) -> None:
    """Nobody has to say so."""
    cloud.fault(operation="CreateFleet", unseen_s=0.3)
    (instance,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}")))
    filters: Any = [{"Name": "instance-id", "Values": [instance]}]
    assert until(lambda: cloud.ec2.describe_instances(Filters=filters)["Reservations"])


@pytest.mark.parametrize("body", ["page", "cut", "empty"])
def test_an_answer_that_is_no_xml(cloud: Cloud, body: str) -> None:
    """boto3 cannot read it, whatever was carried out; the next one is whole."""
    name = f"g-{uuid.uuid4()}"
    cloud.fault(operation="CreateSecurityGroup", body=body)
    with pytest.raises(ResponseParserError):
        cloud.ec2.create_security_group(GroupName=name, Description=name)
    (group,) = cloud.ec2.describe_security_groups(GroupNames=[name])["SecurityGroups"]
    cloud.fault(operation="DeleteSecurityGroup", body=body, status=502 if body == "page" else 200, lost=True)
    with pytest.raises((ResponseParserError, ClientError)):
        cloud.ec2.delete_security_group(GroupId=group["GroupId"])
    cloud.ec2.delete_security_group(GroupId=group["GroupId"])


def test_a_page_that_is_xml_reads_as_an_empty_answer(cloud: Cloud) -> None:
    """What boto3 makes of a well-formed page: nothing at all, and no error. Whoever reads it must look closer."""
    cloud.fault(operation="DescribeVpcs", body="xhtml")
    assert "Vpcs" not in cloud.ec2.describe_vpcs()


def test_an_answer_that_ends_too_soon(cloud: Cloud) -> None:
    """The connection closes within it; boto3 notices that, or reads what came (it depends on its HTTP library)."""
    cloud.fault(operation="DescribeVpcs", body="short")
    with pytest.raises((ConnectionClosedError, ResponseParserError)):
        cloud.ec2.describe_vpcs()


@pytest.mark.parametrize("wrong", [{"body": "xml"}, {"unseen_s": 1.0}])
def test_a_fault_that_makes_no_sense_is_refused(cloud: Cloud, wrong: dict[str, Any]) -> None:
    """It is not taken for another."""
    status, _ = cloud.ask("/gpuctl/faults", method="POST", body={"operation": "DescribeVpcs", **wrong})
    assert status == 400
