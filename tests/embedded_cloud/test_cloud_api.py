"""The API beside fleets: images, prices, groups, templates, metadata, faults; and who may ask."""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from botocore.exceptions import ClientError
from cloud_fixtures import DLAMI, Cloud, ids, until


def test_public_parameters_name_images_that_exist(cloud: Cloud) -> None:
    """Each AMI parameter gives an image of its architecture with a root device, in any region."""
    canonical = "/aws/service/canonical/ubuntu/server/22.04/stable/current"
    names = {
        DLAMI: ("x86_64", 75),
        DLAMI.replace("x86_64", "arm64"): ("arm64", 60),
        f"{canonical}/amd64/hvm/ebs-gp3/ami-id": ("x86_64", 8),
        f"{canonical}/arm64/hvm/ebs-gp3/ami-id": ("arm64", 8),
    }
    for region in ("us-east-1", "eu-west-1"):
        answer = cloud.client("ssm", region).get_parameters(Names=[*names, "/aws/service/none"])
        assert answer["InvalidParameters"] == ["/aws/service/none"]
        for found in answer["Parameters"]:
            (image,) = cloud.client("ec2", region).describe_images(ImageIds=[found["Value"]])["Images"]
            root = image["BlockDeviceMappings"][0]
            assert (image["Architecture"], root["Ebs"]["VolumeSize"]) == names[found["Name"]]
            assert root["DeviceName"] == image["RootDeviceName"] == "/dev/sda1"
    with pytest.raises(ClientError, match="ParameterNotFound"):
        cloud.client("ssm").get_parameter(Name="/aws/service/none")


def test_spot_prices_differ_by_zone_and_obey_filters(cloud: Cloud) -> None:
    """One newest record for each type and zone, for the GPU families, below the on-demand price, of the last hours."""
    now = datetime.now(timezone.utc)
    types = ["g4dn.xlarge", "g5.xlarge", "g6.xlarge", "p4d.24xlarge", "p5.48xlarge"]
    history = cloud.ec2.describe_spot_price_history(
        InstanceTypes=types, ProductDescriptions=["Linux/UNIX"], StartTime=now
    )["SpotPriceHistory"]
    places = [(record["InstanceType"], record["AvailabilityZone"]) for record in history]
    assert len(places) == len(set(places))
    for instance_type in types:
        prices = {record["SpotPrice"] for record in history if record["InstanceType"] == instance_type}
        assert len(prices) > 1
        assert all(0.1 < float(price) < 55 for price in prices)
    assert all(now - timedelta(hours=6) < record["Timestamp"] <= now for record in history)
    (only,) = cloud.ec2.describe_spot_price_history(
        InstanceTypes=["g5.xlarge"], Filters=[{"Name": "availability-zone", "Values": ["us-east-1b"]}]
    )["SpotPriceHistory"]
    assert (only["AvailabilityZone"], only["ProductDescription"]) == ("us-east-1b", "Linux/UNIX")
    others = cloud.ec2.describe_spot_price_history(InstanceTypes=["c7i.large"])["SpotPriceHistory"]
    assert {record["InstanceType"] for record in others} == {"c7i.large"}
    windows = cloud.ec2.describe_spot_price_history(InstanceTypes=types, ProductDescriptions=["Windows"])
    assert windows["SpotPriceHistory"] == []


def test_spot_prices_come_in_pages(cloud: Cloud) -> None:
    """A paginator sees every record once, and the same as one big page has."""
    pages = cloud.ec2.get_paginator("describe_spot_price_history").paginate(PaginationConfig={"PageSize": 7})
    paged = [(one["InstanceType"], one["AvailabilityZone"]) for page in pages for one in page["SpotPriceHistory"]]
    whole = cloud.ec2.describe_spot_price_history()["SpotPriceHistory"]
    assert len(paged) == len(set(paged)) == len(whole) > 100


def test_instance_types_tell_their_gpus(cloud: Cloud) -> None:
    """DescribeInstanceTypes has what an offer is ranked by."""
    (found,) = cloud.ec2.describe_instance_types(InstanceTypes=["g5.xlarge"])["InstanceTypes"]
    (gpu,) = found["GpuInfo"]["Gpus"]
    assert (gpu["Name"], gpu["Count"], found["VCpuInfo"]["DefaultVCpus"]) == ("A10G", 1, 4)
    offered = cloud.ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["p5.48xlarge"]}]
    )["InstanceTypeOfferings"]
    assert {entry["Location"][:-1] for entry in offered} == {"us-east-1"}


def test_the_price_list_has_on_demand_prices(cloud: Cloud) -> None:
    """GetProducts answers for one type in one region, in the price list's own nested form."""
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in (("instanceType", "g5.xlarge"), ("regionCode", "us-east-1"), ("operatingSystem", "Linux"))
    ]
    (text,) = cloud.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    (term,) = json.loads(text)["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    assert dimension["pricePerUnit"]["USD"] == "1.006000"


def test_every_address_is_the_loopback(cloud: Cloud) -> None:
    """An instance, its interface and an allocated address name 127.0.0.1 and no machine on the internet."""
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}")))
    instance = cloud.wait_for_state(instance_id, "running")
    assert (instance["PublicIpAddress"], instance["PrivateIpAddress"]) == ("127.0.0.1", "127.0.0.1")
    assert (instance["PublicDnsName"], instance["PrivateDnsName"]) == ("localhost", "localhost")
    interface_id = instance["NetworkInterfaces"][0]["NetworkInterfaceId"]
    (interface,) = cloud.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    for described in (interface, instance["NetworkInterfaces"][0]):
        assert described["Association"]["PublicIp"] == "127.0.0.1"
        assert [entry["PrivateIpAddress"] for entry in described["PrivateIpAddresses"]] == ["127.0.0.1"]
    assert cloud.ec2.allocate_address(Domain="vpc")["PublicIp"] == "127.0.0.1"


def test_states_take_a_moment(cloud: Cloud) -> None:
    """pending, running, shutting-down, terminated: each is seen, and what ended stays visible without its parts."""
    template_id = cloud.template(f"t-{uuid.uuid4()}")
    (instance_id,) = ids(cloud.fleet(template_id))
    assert cloud.instance(instance_id)["State"]["Name"] == "pending"
    running = cloud.wait_for_state(instance_id, "running")
    volume_id = running["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    (change,) = cloud.ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "shutting-down")
    assert cloud.instance(instance_id)["State"]["Name"] == "shutting-down"
    ended = cloud.wait_for_state(instance_id, "terminated")
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert (ended["BlockDeviceMappings"], ended["NetworkInterfaces"]) == ([], [])
    assert "PublicIpAddress" not in ended
    with pytest.raises(ClientError, match=r"InvalidVolume.NotFound"):
        cloud.ec2.describe_volumes(VolumeIds=[volume_id])
    tagged = cloud.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [volume_id]}])["Tags"]
    assert tagged == []
    (again,) = cloud.ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert again["CurrentState"]["Name"] == "terminated"


def test_a_group_in_use_cannot_be_deleted(cloud: Cloud) -> None:
    """DependencyViolation until the last instance in the group is terminated."""
    group_id = cloud.group(f"g-{uuid.uuid4()}")
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}", groups=[group_id])))
    cloud.wait_for_state(instance_id, "running")
    for _ in range(2):
        with pytest.raises(ClientError, match="DependencyViolation"):
            cloud.ec2.delete_security_group(GroupId=group_id)
        cloud.ec2.terminate_instances(InstanceIds=[instance_id])
    cloud.wait_for_state(instance_id, "terminated")
    cloud.ec2.delete_security_group(GroupId=group_id)
    with pytest.raises(ClientError, match=r"InvalidGroup.NotFound"):
        cloud.ec2.describe_security_groups(GroupIds=[group_id])


def test_a_deleted_template_is_gone_with_its_tags(cloud: Cloud) -> None:
    """A template is found by tag until it is deleted; then its id is unknown, not an empty list."""
    name = f"t-{uuid.uuid4()}"
    template_id = cloud.template(name)
    filters = [{"Name": "tag:gpuctl:run", "Values": [name]}]
    assert len(cloud.ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]) == 1
    with pytest.raises(ClientError, match="AlreadyExists"):
        cloud.template(name)
    cloud.ec2.delete_launch_template(LaunchTemplateId=template_id)
    assert cloud.ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"] == []
    for call in (cloud.ec2.delete_launch_template, cloud.ec2.describe_launch_template_versions):
        with pytest.raises(ClientError, match="InvalidLaunchTemplateId"):
            call(LaunchTemplateId=template_id)


def test_all_templates_are_listed(cloud: Cloud) -> None:
    """More templates than fit moto's own page are all told."""
    names = {f"many-{uuid.uuid4()}" for _ in range(20)}
    for name in names:
        cloud.template(name)
    listed = {entry["LaunchTemplateName"] for entry in cloud.ec2.describe_launch_templates()["LaunchTemplates"]}
    assert names <= listed


def test_a_template_version_builds_on_its_source(cloud: Cloud) -> None:
    """A version made from another has what the other had, less what it says itself."""
    template_id = cloud.template(f"t-{uuid.uuid4()}", InstanceType="g5.xlarge")
    cloud.ec2.create_launch_template_version(
        LaunchTemplateId=template_id, SourceVersion="1", LaunchTemplateData={"InstanceType": "g6.xlarge"}
    )
    (instance_id,) = ids(cloud.fleet(template_id, {"AvailabilityZone": "us-east-1a"}))
    instance = cloud.instance(instance_id)
    assert (instance["InstanceType"], instance["MetadataOptions"]["HttpTokens"]) == ("g6.xlarge", "required")


@pytest.mark.parametrize(
    ("cidr", "admitted", "refused"),
    [
        ("127.0.0.1/32", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.2/32", "127.0.0.2", "127.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "11.0.0.1"),
        ("::1/128", "::1", "127.0.0.1"),
    ],
)
def test_groups_decide_who_is_admitted(cloud: Cloud, cidr: str, admitted: str, refused: str) -> None:
    """A host asks the cloud, which reads the rules as they are at that moment."""
    group_id = cloud.group(f"g-{uuid.uuid4()}", cidr=cidr)
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}", groups=[group_id])))

    def allows_ssh(address: str) -> tuple[int, bool]:
        status, text = cloud.ask(f"/gpuctl/hosts/{instance_id}/admits?address={address}")
        return status, json.loads(text)["admits"]

    assert allows_ssh(admitted) == (200, True)
    assert allows_ssh(refused) == (403, False)
    assert allows_ssh("not-an-address") == (403, False)
    (group,) = cloud.ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    cloud.ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=group["IpPermissions"])
    assert allows_ssh(admitted) == (403, False)


def test_a_group_admits_its_other_members(cloud: Cloud) -> None:
    """A rule that names a group lets that group's other hosts in, once there are any."""
    group_id = cloud.group(f"g-{uuid.uuid4()}", cidr="127.0.0.2/32")
    permission = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group_id}]}
    cloud.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[permission])
    template_id = cloud.template(f"t-{uuid.uuid4()}", groups=[group_id])
    (first,) = ids(cloud.fleet(template_id))
    path = f"/gpuctl/hosts/{first}/admits?address=127.0.0.1"
    assert cloud.ask(path)[0] == 403
    cloud.fleet(template_id)
    assert cloud.ask(path)[0] == 200


def test_metadata_wants_a_token(cloud: Cloud) -> None:
    """IMDSv2: no answer without a token, no token without its time to live, none from another instance."""
    first, second = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}"), count=2))
    base = cloud.metadata(first)
    header = "X-aws-ec2-metadata-token"
    assert cloud.ask(f"{base}/meta-data/instance-id")[0] == 401
    assert cloud.ask(f"{base}/api/token", method="PUT")[0] == 400
    status, token = cloud.ask(f"{base}/api/token", method="PUT", headers={f"{header}-ttl-seconds": "60"})
    assert status == 200
    cloud.wait_for_state(first, "running")
    expected = {
        "meta-data/instance-id": first,
        "meta-data/instance-type": "g5.xlarge",
        "meta-data/placement/availability-zone": "us-east-1a",
        "meta-data/placement/region": "us-east-1",
        "meta-data/instance-life-cycle": "spot",
        "meta-data/local-ipv4": "127.0.0.1",
        "meta-data/public-ipv4": "127.0.0.1",
        "user-data": "#cloud-config\n{}\n",
    }
    for path, text in expected.items():
        assert cloud.ask(f"{base}/{path}", headers={header: token}) == (200, text)
    document = json.loads(cloud.ask(f"{base}/dynamic/instance-identity/document", headers={header: token})[1])
    assert (document["instanceId"], document["region"]) == (first, "us-east-1")
    assert "instance-id" in cloud.ask(f"{base}/meta-data/", headers={header: token})[1].splitlines()
    assert "placement/" in cloud.ask(f"{base}/meta-data/", headers={header: token})[1].splitlines()
    assert cloud.ask(f"{base}/meta-data/spot/instance-action", headers={header: token})[0] == 404
    assert cloud.ask(f"{cloud.metadata(second)}/meta-data/instance-id", headers={header: token})[0] == 401


def test_a_reclaimed_instance_is_told_first(cloud: Cloud) -> None:
    """The notice stands in the metadata, and the instance ends when it has run out, with the reason that EC2 gives."""
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}")))
    cloud.wait_for_state(instance_id, "running")
    base, header = cloud.metadata(instance_id), "X-aws-ec2-metadata-token"
    _, token = cloud.ask(f"{base}/api/token", method="PUT", headers={f"{header}-ttl-seconds": "60"})
    assert cloud.ask(f"/gpuctl/hosts/{instance_id}/reclaim?notice_s=0.3", method="POST")[0] == 200
    status, text = cloud.ask(f"{base}/meta-data/spot/instance-action", headers={header: token})
    assert (status, json.loads(text)["action"]) == (200, "terminate")
    ended = cloud.wait_for_state(instance_id, "terminated")
    assert ended["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_the_caller_is_one_user(cloud: Cloud) -> None:
    """GetCallerIdentity gives a user's ARN that stays."""
    found = {cloud.client("sts", region).get_caller_identity()["Arn"] for region in ("us-east-1", "eu-west-1")}
    assert found == {"arn:aws:iam::123456789012:user/gpuctl"}


def test_what_is_not_there_is_refused_at_once(cloud: Cloud) -> None:
    """An operation or a service that is missing is the client's error, which nobody tries again."""
    with pytest.raises(ClientError, match="InvalidAction"):
        cloud.ec2.create_spot_datafeed_subscription(Bucket="b")
    with pytest.raises(ClientError, match="InvalidAction"):
        cloud.client("dynamodb").list_tables()


def test_faults_are_used_up(cloud: Cloud) -> None:
    """An error as often as it was asked for, in AWS's own form; a delay alone; unknown keys are named."""
    cloud.fault(operation="DescribeVpcs", code="RequestLimitExceeded", status=503, times=2)
    for _ in range(2):
        with pytest.raises(ClientError, match="RequestLimitExceeded"):
            cloud.ec2.describe_vpcs()
    assert cloud.ec2.describe_vpcs()["Vpcs"]
    cloud.fault(operation="GetParameter", code="ThrottlingException", status=400)
    with pytest.raises(ClientError, match="ThrottlingException"):
        cloud.client("ssm").get_parameter(Name=DLAMI)
    cloud.fault(operation="DescribeVpcs", delay_s=0.2)
    began = time.monotonic()
    assert cloud.ec2.describe_vpcs()["Vpcs"]
    assert time.monotonic() - began >= 0.2
    status, text = cloud.ask("/gpuctl/faults", method="POST", body={"operation": "DescribeVpcs", "cod": "x"})
    assert (status, "'cod'" in text) == (400, True)
    cloud.fault(operation="DescribeVpcs", code="UnauthorizedOperation", status=403, times=-1)
    assert cloud.ask("/gpuctl/faults", method="DELETE")[0] == 200
    assert cloud.ec2.describe_vpcs()["Vpcs"]


def test_calls_are_counted(cloud: Cloud) -> None:
    """A benchmark can tell which AWS calls were made."""
    cloud.ask("/gpuctl/calls", method="DELETE")
    cloud.ec2.describe_vpcs()
    cloud.client("ssm").get_parameter(Name=DLAMI)
    calls = json.loads(cloud.ask("/gpuctl/calls")[1])["calls"]
    assert [(call["service"], call["operation"]) for call in calls] == [
        ("ec2", "DescribeVpcs"),
        ("ssm", "GetParameter"),
    ]


def test_no_browser_and_nobody_unsigned_is_answered(cloud: Cloud) -> None:
    """A web page that posts to the port launches nothing, by its origin or by a name that it made up."""
    assert cloud.ask("/", method="POST", body={}, headers={"Authorization": "none"})[0] == 403
    assert cloud.ask("/gpuctl/health", headers={"Origin": "https://example.com"})[0] == 403
    assert cloud.ask("/gpuctl/health", headers={"Host": "evil.example:80"})[0] == 403
    assert cloud.ask("/gpuctl/caller-address") == (200, "127.0.0.1\n")


def test_a_dry_run_makes_nothing(cloud: Cloud) -> None:
    """DryRun says that it would have worked."""
    template_id = cloud.template(f"t-{uuid.uuid4()}")
    with pytest.raises(ClientError, match="DryRunOperation"):
        cloud.fleet(template_id, DryRun=True)
    filters = [{"Name": "tag:aws:ec2launchtemplate:id", "Values": [template_id]}]
    assert cloud.ec2.describe_instances(Filters=filters)["Reservations"] == []


def test_an_api_only_instance_has_no_host(cloud: Cloud) -> None:
    """It runs, stops, starts and reboots as far as the API goes; there is nowhere to connect to."""
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}"), market="on-demand"))
    cloud.wait_for_state(instance_id, "running")
    assert cloud.ask(f"/gpuctl/hosts/{instance_id}")[0] == 404
    cloud.ec2.reboot_instances(InstanceIds=[instance_id])
    cloud.ec2.stop_instances(InstanceIds=[instance_id])
    cloud.wait_for_state(instance_id, "stopped")
    cloud.ec2.start_instances(InstanceIds=[instance_id])
    assert until(lambda: cloud.instance(instance_id).get("PublicIpAddress")) == "127.0.0.1"
