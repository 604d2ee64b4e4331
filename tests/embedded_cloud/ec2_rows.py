"""One row an operation of EC2 that the embedded cloud offers: what it takes, and what EC2's page says that it refuses.

An operation's page is `PAGE` with its name; the codes are those of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html. What a `note` says is on neither and is not
tested.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cloud_fixtures import DLAMI, Cloud, ids
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CIDR = "10.9.0.0/16"
PAGE = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
SPECS = [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "v"}]}]
CAPACITY = {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "on-demand"}
PERMISSION = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
PUBLIC_KEY = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@dataclass
class Made:
    """What is there to be asked for, made when it is first wanted."""

    cloud: Cloud

    @property
    def ec2(self) -> Any:
        return self.cloud.ec2

    @property
    def name(self) -> str:
        return f"n-{uuid.uuid4()}"

    @cached_property
    def image(self) -> str:
        return str(self.cloud.client("ssm").get_parameter(Name=DLAMI)["Parameter"]["Value"])

    @property
    def template(self) -> str:
        return self.cloud.template(self.name)

    @cached_property
    def fleet(self) -> dict[str, Any]:
        return self.cloud.fleet(self.template, market="on-demand", count=6)

    @property
    def instances(self) -> list[str]:
        return ids(self.fleet)

    @property
    def fresh(self) -> str:
        """An instance of the asker's own, which runs."""
        (instance_id,) = ids(self.cloud.fleet(self.template, market="on-demand"))
        self.cloud.wait_for_state(instance_id, "running")
        return instance_id

    @property
    def stopped(self) -> str:
        instance_id = self.fresh
        self.ec2.stop_instances(InstanceIds=[instance_id])
        self.cloud.wait_for_state(instance_id, "stopped")
        return instance_id

    @property
    def group(self) -> str:
        return str(self.ec2.create_security_group(GroupName=self.name, Description="d")["GroupId"])

    @cached_property
    def subnet(self) -> str:
        of_default = [{"Name": "default-for-az", "Values": ["true"]}]
        return str(self.ec2.describe_subnets(Filters=of_default)["Subnets"][0]["SubnetId"])

    @property
    def vpc(self) -> str:
        return str(self.ec2.create_vpc(CidrBlock=CIDR)["Vpc"]["VpcId"])

    def remove_networks(self) -> None:
        """Takes away what other tests would take for their own: subnets, and their VPCs."""
        for vpc in self.ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": [CIDR]}])["Vpcs"]:
            of_vpc = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
            for subnet in self.ec2.describe_subnets(Filters=of_vpc)["Subnets"]:
                self.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
            self.ec2.delete_vpc(VpcId=vpc["VpcId"])

    @property
    def volume(self) -> str:
        return str(self.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"])

    @property
    def snapshot(self) -> str:
        return str(self.ec2.create_snapshot(VolumeId=self.volume)["SnapshotId"])

    @property
    def interface(self) -> str:
        made = self.ec2.create_network_interface(SubnetId=self.subnet)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    @property
    def open_group(self) -> str:
        """A group with the rule PERMISSION, both ways."""
        group_id = self.group
        self.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[PERMISSION])
        self.ec2.authorize_security_group_egress(GroupId=group_id, IpPermissions=[PERMISSION])
        return group_id

    @property
    def address(self) -> str:
        return str(self.ec2.allocate_address(Domain="vpc")["AllocationId"])

    @cached_property
    def default_vpc(self) -> str:
        of_account = [{"Name": "is-default", "Values": ["true"]}]
        return str(self.ec2.describe_vpcs(Filters=of_account)["Vpcs"][0]["VpcId"])

    @property
    def routes(self) -> str:
        """A route table of the default VPC."""
        return str(self.ec2.create_route_table(VpcId=self.default_vpc)["RouteTable"]["RouteTableId"])

    @property
    def routed(self) -> str:
        """One with a route to the internet."""
        table = self.routes
        self.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=self.gateway)
        return table

    @cached_property
    def gateway(self) -> str:
        return str(self.ec2.describe_internet_gateways()["InternetGateways"][0]["InternetGatewayId"])

    @property
    def key(self) -> str:
        return str(self.ec2.create_key_pair(KeyName=self.name)["KeyName"])


@dataclass(frozen=True)
class Row:
    """`takes`: a request that is carried out. `ids`: parameters of ids, each with one that nothing has, and the codes
    for one that is malformed (None: the page has none) and for one that nothing has. `refuses`: requests, laid over the
    first, with their codes."""

    operation: str
    takes: Callable[[Made], dict[str, Any]] = lambda _: {}
    ids: Mapping[str, tuple[str, str | None, str | None]] = field(default_factory=dict)
    refuses: tuple[tuple[dict[str, Any], str], ...] = ()
    note: str = ""

    @property
    def page(self) -> str:
        return PAGE.format(self.operation)


def absent(prefix: str, malformed: str | None, unknown: str) -> tuple[str, str | None, str]:
    return f"{prefix}-0123456789abcdef0", malformed, unknown


INSTANCE = absent("i", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound")
GROUP = absent("sg", "InvalidGroupId.Malformed", "InvalidGroup.NotFound")
TEMPLATE = absent("lt", "InvalidLaunchTemplateId.Malformed", "InvalidLaunchTemplateId.NotFound")
IMAGE = absent("ami", "InvalidAMIID.Malformed", "InvalidAMIID.NotFound")
VOLUME = absent("vol", "InvalidVolumeID.Malformed", "InvalidVolume.NotFound")
SNAPSHOT = absent("snap", "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound")
INTERFACE = absent("eni", "InvalidNetworkInterfaceId.Malformed", "InvalidNetworkInterfaceID.NotFound")
SUBNET = absent("subnet", "InvalidSubnetID.Malformed", "InvalidSubnetID.NotFound")
VPC = absent("vpc", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound")
FLEET = ("fleet-01234567-89ab-cdef-0123-456789abcdef", None, "InvalidFleetId.NotFound")
ADDRESS = absent("eipalloc", None, "InvalidAllocationID.NotFound")
SPOT = ("sir-abcdefgh", "InvalidSpotInstanceRequestID.Malformed", "InvalidSpotInstanceRequestID.NotFound")
ROUTES = absent("rtb", "InvalidRouteTableId.Malformed", "InvalidRouteTableID.NotFound")
GATEWAY = absent("igw", "InvalidInternetGatewayId.Malformed", "InvalidInternetGatewayID.NotFound")
RULE = absent("sgr", "InvalidSecurityGroupRuleId.Malformed", "InvalidSecurityGroupRuleId.NotFound")
NO_FLEET_CODE = "neither page has a code for a fleet's malformed id"

LONG = base64.b64encode(b"x" * 16385).decode()
RESERVED = [{"Key": "aws:x", "Value": "v"}]


def config(made: Made) -> dict[str, Any]:
    specification = {"LaunchTemplateId": made.template, "Version": "$Latest"}
    return {"LaunchTemplateSpecification": specification, "Overrides": [{"InstanceType": "g5.xlarge"}]}


ROWS = (
    Row(
        "RunInstances",
        lambda made: {"ImageId": made.image, "InstanceType": "g5.xlarge", "MinCount": 1, "MaxCount": 1},
        {"ImageId": IMAGE, "SubnetId": SUBNET, "SecurityGroupIds": GROUP},
        (
            ({"UserData": LONG}, "InvalidParameterValue"),
            ({"UserData": "not base64!"}, "InvalidUserData.Malformed"),
            ({"InstanceType": "g5.nothing"}, "InvalidParameterValue"),
            ({"MinCount": 2}, "InvalidParameterValue"),
            ({"MinCount": 0, "MaxCount": 0}, "InvalidParameterValue"),
            ({"TagSpecifications": [{"ResourceType": "instance", "Tags": RESERVED}]}, "InvalidParameterValue"),
            ({"TagSpecifications": [{"ResourceType": "subnet", "Tags": SPECS[0]["Tags"]}]}, "InvalidParameterValue"),
            ({"InstanceInitiatedShutdownBehavior": "sleep"}, "InvalidParameterValue"),
        ),
    ),
    Row("DescribeInstances", lambda made: {"InstanceIds": made.instances}, {"InstanceIds": INSTANCE}),
    Row("DescribeInstanceStatus", lambda made: {"InstanceIds": made.instances}, {"InstanceIds": INSTANCE}),
    Row(
        "DescribeInstanceAttribute",
        lambda made: {"InstanceId": made.instances[0], "Attribute": "userData"},
        {"InstanceId": INSTANCE},
        (({"Attribute": "colour"}, "InvalidParameterValue"),),
    ),
    Row(
        "ModifyInstanceAttribute",
        lambda made: {"InstanceId": made.instances[0], "DisableApiTermination": {"Value": False}},
        {"InstanceId": INSTANCE},
    ),
    Row("TerminateInstances", lambda made: {"InstanceIds": [made.fresh]}, {"InstanceIds": INSTANCE}),
    Row("StopInstances", lambda made: {"InstanceIds": [made.fresh]}, {"InstanceIds": INSTANCE}),
    Row("StartInstances", lambda made: {"InstanceIds": [made.stopped]}, {"InstanceIds": INSTANCE}),
    Row("RebootInstances", lambda made: {"InstanceIds": [made.instances[0]]}, {"InstanceIds": INSTANCE}),
    Row(
        "DescribeInstanceTypes",
        lambda _: {"InstanceTypes": ["g5.xlarge"]},
        refuses=(({"InstanceTypes": ["g5.nothing"]}, "InvalidInstanceType"),),
    ),
    Row(
        "DescribeInstanceTypeOfferings",
        lambda _: {"LocationType": "availability-zone"},
        refuses=(({"LocationType": "planet"}, "InvalidParameterValue"),),
    ),
    Row(
        "CreateFleet",
        lambda made: {
            "Type": "instant",
            "LaunchTemplateConfigs": [config(made)],
            "TargetCapacitySpecification": CAPACITY,
            "TagSpecifications": SPECS,
        },
        refuses=(
            ({"Type": "eternal"}, "InvalidParameterValue"),
            ({"TargetCapacitySpecification": {"TotalTargetCapacity": "many"}}, "InvalidParameterValue"),
            (
                {"LaunchTemplateConfigs": [{"LaunchTemplateSpecification": {"LaunchTemplateId": TEMPLATE[0]}}]},
                TEMPLATE[2],
            ),
            (
                {"LaunchTemplateConfigs": [{"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-1"}}]},
                str(TEMPLATE[1]),
            ),
            ({"SpotOptions": {"AllocationStrategy": "dearest"}}, "InvalidParameterValue"),
            ({"TagSpecifications": [{"ResourceType": "fleet", "Tags": RESERVED}]}, "InvalidParameterValue"),
        ),
    ),
    Row("DescribeFleets", lambda made: {"FleetIds": [made.fleet["FleetId"]]}, {"FleetIds": FLEET}, note=NO_FLEET_CODE),
    Row(
        "DescribeFleetInstances",
        lambda made: {"FleetId": made.fleet["FleetId"]},
        {"FleetId": FLEET},
        note=NO_FLEET_CODE,
    ),
    Row(
        "DeleteFleets",
        lambda made: {
            "FleetIds": [made.cloud.fleet(made.template, market="on-demand")["FleetId"]],
            "TerminateInstances": True,
        },
        {"FleetIds": FLEET},
        note=NO_FLEET_CODE,
    ),
    Row(
        "CreateLaunchTemplate",
        lambda made: {"LaunchTemplateName": made.name, "LaunchTemplateData": {"ImageId": made.image}},
        refuses=(
            ({"LaunchTemplateName": "ab"}, "InvalidLaunchTemplateName.MalformedException"),
            ({"LaunchTemplateName": "a b c"}, "InvalidLaunchTemplateName.MalformedException"),
            ({"LaunchTemplateName": "x" * 129}, "InvalidLaunchTemplateName.MalformedException"),
            ({"LaunchTemplateData": {}}, "MissingParameter"),
            ({"LaunchTemplateData": {"UserData": LONG}}, "InvalidUserData.Malformed"),
            ({"LaunchTemplateData": {"UserData": "?"}}, "InvalidUserData.Malformed"),
            ({"LaunchTemplateData": {"ImageId": "ami-x"}}, "InvalidAMIID.Malformed"),
            ({"TagSpecifications": [{"ResourceType": "launch-template", "Tags": RESERVED}]}, "InvalidParameterValue"),
        ),
    ),
    Row(
        "CreateLaunchTemplateVersion",
        lambda made: {"LaunchTemplateId": made.template, "LaunchTemplateData": {"InstanceType": "g5.xlarge"}},
        {"LaunchTemplateId": TEMPLATE},
        (
            ({"LaunchTemplateData": {"UserData": LONG}}, "InvalidUserData.Malformed"),
            ({"SourceVersion": "77"}, "InvalidLaunchTemplateId.VersionNotFound"),
        ),
    ),
    Row(
        "DescribeLaunchTemplates", lambda made: {"LaunchTemplateIds": [made.template]}, {"LaunchTemplateIds": TEMPLATE}
    ),
    Row(
        "DescribeLaunchTemplateVersions",
        lambda made: {"LaunchTemplateId": made.template},
        {"LaunchTemplateId": TEMPLATE},
    ),
    Row("DeleteLaunchTemplate", lambda made: {"LaunchTemplateId": made.template}, {"LaunchTemplateId": TEMPLATE}),
    Row(
        "CreateSecurityGroup",
        lambda made: {"GroupName": made.name, "Description": "d"},
        {"VpcId": VPC},
        (
            ({"GroupName": "default"}, "InvalidGroup.Reserved"),
            ({"GroupName": "sg-mine"}, "InvalidParameterValue"),
            ({"GroupName": "x" * 256}, "InvalidParameterValue"),
            ({"Description": "ä"}, "InvalidParameterValue"),
        ),
    ),
    Row("DescribeSecurityGroups", lambda made: {"GroupIds": [made.group]}, {"GroupIds": GROUP}),
    Row("DescribeSecurityGroupRules", ids={"SecurityGroupRuleIds": RULE}),
    Row(
        "AuthorizeSecurityGroupIngress",
        lambda made: {"GroupId": made.group, "IpPermissions": [PERMISSION]},
        {"GroupId": GROUP},
        (({"IpPermissions": [{**PERMISSION, "IpRanges": [{"CidrIp": "nowhere"}]}]}, "InvalidParameterValue"),),
    ),
    Row(
        "RevokeSecurityGroupIngress",
        lambda made: {"GroupId": made.open_group, "IpPermissions": [PERMISSION]},
        {"GroupId": GROUP},
        (({"IpPermissions": [{**PERMISSION, "ToPort": 81}]}, "InvalidPermission.NotFound"),),
    ),
    Row(
        "AuthorizeSecurityGroupEgress",
        lambda made: {"GroupId": made.group, "IpPermissions": [PERMISSION]},
        {"GroupId": GROUP},
    ),
    Row(
        "RevokeSecurityGroupEgress",
        lambda made: {"GroupId": made.open_group, "IpPermissions": [PERMISSION]},
        {"GroupId": GROUP},
        (({"IpPermissions": [{**PERMISSION, "ToPort": 81}]}, "InvalidPermission.NotFound"),),
    ),
    Row("DeleteSecurityGroup", lambda made: {"GroupId": made.group}, {"GroupId": GROUP}),
    Row(
        "CreateTags",
        lambda made: {"Resources": [made.volume], "Tags": [{"Key": "k", "Value": "v"}]},
        {"Resources": ("vol-0123456789abcdef0", "InvalidID", "InvalidVolume.NotFound")},
        (
            ({"Tags": RESERVED}, "InvalidParameterValue"),
            ({"Tags": [{"Key": "", "Value": "v"}]}, "InvalidParameterValue"),
            ({"Tags": [{"Key": "k" * 129, "Value": "v"}]}, "InvalidParameterValue"),
            ({"Tags": [{"Key": "k", "Value": "v" * 257}]}, "InvalidParameterValue"),
            ({"Tags": [{"Key": f"k{n}", "Value": "v"} for n in range(51)]}, "TagLimitExceeded"),
        ),
    ),
    Row(
        "DeleteTags",
        lambda made: {"Resources": [made.volume], "Tags": [{"Key": "k"}]},
        {"Resources": ("vol-0123456789abcdef0", "InvalidID", None)},
        (({"Tags": RESERVED}, "InvalidParameterValue"),),
        note="the page does not say what becomes of the tags of what is not there",
    ),
    Row("DescribeTags"),
    Row("DescribeImages", lambda made: {"ImageIds": [made.image]}, {"ImageIds": IMAGE}),
    Row(
        "CreateVolume",
        lambda _: {"AvailabilityZone": "us-east-1a", "Size": 1, "VolumeType": "gp3"},
        {"SnapshotId": SNAPSHOT},
        (
            ({"AvailabilityZone": "nowhere"}, "InvalidZone.NotFound"),
            ({"VolumeType": "gp9"}, "InvalidParameterValue"),
            ({"TagSpecifications": [{"ResourceType": "volume", "Tags": RESERVED}]}, "InvalidParameterValue"),
        ),
    ),
    Row("DescribeVolumes", lambda made: {"VolumeIds": [made.volume]}, {"VolumeIds": VOLUME}),
    Row("DeleteVolume", lambda made: {"VolumeId": made.volume}, {"VolumeId": VOLUME}),
    Row("CreateNetworkInterface", lambda made: {"SubnetId": made.subnet}, {"SubnetId": SUBNET, "Groups": GROUP}),
    Row(
        "DescribeNetworkInterfaces",
        lambda made: {"NetworkInterfaceIds": [made.interface]},
        {"NetworkInterfaceIds": INTERFACE},
    ),
    Row(
        "DeleteNetworkInterface", lambda made: {"NetworkInterfaceId": made.interface}, {"NetworkInterfaceId": INTERFACE}
    ),
    Row("DescribeVpcs", ids={"VpcIds": VPC}),
    Row("DescribeSubnets", lambda made: {"SubnetIds": [made.subnet]}, {"SubnetIds": SUBNET}),
    Row("DescribeAvailabilityZones", refuses=(({"ZoneNames": ["nowhere"]}, "InvalidParameterValue"),)),
    Row("DescribeRegions", note="no page has a code for a region that there is not"),
    Row(
        "CreateSubnet",
        lambda made: {"VpcId": made.vpc, "CidrBlock": "10.9.1.0/24"},
        {"VpcId": VPC},
        (
            ({"CidrBlock": "10.9.1.0/8"}, "InvalidSubnet.Range"),
            ({"CidrBlock": "nowhere"}, "InvalidParameterValue"),
        ),
    ),
    Row(
        "DeleteSubnet",
        lambda made: {
            "SubnetId": made.ec2.create_subnet(VpcId=made.vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
        },
        {"SubnetId": SUBNET},
    ),
    Row(
        "CreateVpc",
        lambda _: {"CidrBlock": CIDR},
        refuses=(
            ({"CidrBlock": "10.9.0.0/8"}, "InvalidVpc.Range"),
            ({"CidrBlock": "nowhere"}, "InvalidParameterValue"),
        ),
        note="errors-overview spells InvalidVpcRange, EC2 answers InvalidVpc.Range",
    ),
    Row("DeleteVpc", lambda made: {"VpcId": made.vpc}, {"VpcId": VPC}),
    Row("CreateRouteTable", lambda made: {"VpcId": made.default_vpc}, {"VpcId": VPC}),
    Row(
        "AssociateRouteTable",
        lambda made: {"RouteTableId": made.routed, "SubnetId": made.subnet},
        {"RouteTableId": ROUTES, "SubnetId": SUBNET},
    ),
    Row("DescribeRouteTables", ids={"RouteTableIds": ROUTES}),
    Row(
        "CreateRoute",
        lambda made: {"RouteTableId": made.routes, "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": made.gateway},
        {"RouteTableId": ROUTES},
        (({"DestinationCidrBlock": "nowhere"}, "InvalidParameterValue"),),
    ),
    Row(
        "DeleteRoute",
        lambda made: {"RouteTableId": made.routed, "DestinationCidrBlock": "0.0.0.0/0"},
        {"RouteTableId": ROUTES},
        (({"DestinationCidrBlock": "192.0.2.0/24"}, "InvalidRoute.NotFound"),),
    ),
    Row("DescribeInternetGateways", ids={"InternetGatewayIds": GATEWAY}),
    Row("DescribeSpotPriceHistory", lambda _: {"InstanceTypes": ["g5.xlarge"]}),
    Row("DescribeSpotInstanceRequests", ids={"SpotInstanceRequestIds": SPOT}),
    Row(
        "CreateKeyPair",
        lambda made: {"KeyName": made.name},
        refuses=(({"KeyType": "dsa"}, "InvalidParameterValue"),),
    ),
    Row(
        "ImportKeyPair",
        lambda made: {"KeyName": made.name, "PublicKeyMaterial": PUBLIC_KEY},
        refuses=(({"PublicKeyMaterial": b"no key"}, "InvalidKey.Format"),),
    ),
    Row("DeleteKeyPair", lambda made: {"KeyName": made.key}),
    Row("DescribeKeyPairs", refuses=(({"KeyNames": ["nobody's"]}, "InvalidKeyPair.NotFound"),)),
    Row("AllocateAddress", refuses=(({"Domain": "mars"}, "InvalidParameterValue"),)),
    Row("DescribeAddresses", ids={"AllocationIds": ADDRESS}, note="no page has a code for a malformed allocation id"),
    Row("ReleaseAddress", lambda made: {"AllocationId": made.address}, {"AllocationId": ADDRESS}),
    Row("CreateSnapshot", lambda made: {"VolumeId": made.volume}, {"VolumeId": VOLUME}),
    Row("DescribeSnapshots", lambda made: {"SnapshotIds": [made.snapshot]}, {"SnapshotIds": SNAPSHOT}),
    Row("DeleteSnapshot", lambda made: {"SnapshotId": made.snapshot}, {"SnapshotId": SNAPSHOT}),
    Row("DescribeAccountAttributes", refuses=(({"AttributeNames": ["colour"]}, "InvalidParameterValue"),)),
)
