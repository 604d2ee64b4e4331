"""Which operations the embedded cloud offers, and what AWS's own model of EC2's API says of each.

The model is botocore's. Its texts are those of AWS's pages (`PAGES` + `API_` + the operation's name): of them alone it
is known which filters an operation has, and how many results it gives at a time.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from moto.core.utils import get_pagination_model, get_service_model

PAGES = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/"
_EC2 = """
    RunInstances DescribeInstances DescribeInstanceStatus DescribeInstanceAttribute ModifyInstanceAttribute
    TerminateInstances StopInstances StartInstances RebootInstances DescribeInstanceTypes
    DescribeInstanceTypeOfferings CreateFleet DescribeFleets DescribeFleetInstances DeleteFleets
    CreateLaunchTemplate CreateLaunchTemplateVersion DescribeLaunchTemplates DescribeLaunchTemplateVersions
    DeleteLaunchTemplate CreateSecurityGroup DescribeSecurityGroups DescribeSecurityGroupRules
    AuthorizeSecurityGroupIngress RevokeSecurityGroupIngress AuthorizeSecurityGroupEgress
    RevokeSecurityGroupEgress DeleteSecurityGroup CreateTags DeleteTags DescribeTags DescribeImages CreateVolume
    DescribeVolumes DeleteVolume CreateNetworkInterface DescribeNetworkInterfaces
    DeleteNetworkInterface DescribeVpcs DescribeSubnets DescribeAvailabilityZones DescribeRegions CreateSubnet
    DeleteSubnet CreateVpc DeleteVpc CreateRouteTable AssociateRouteTable DescribeRouteTables CreateRoute DeleteRoute
    DescribeInternetGateways DescribeSpotPriceHistory
    DescribeSpotInstanceRequests CreateKeyPair ImportKeyPair DeleteKeyPair DescribeKeyPairs AllocateAddress
    DescribeAddresses ReleaseAddress CreateSnapshot DescribeSnapshots DeleteSnapshot DescribeAccountAttributes
"""
OFFERED = {
    "ec2": frozenset(_EC2.split()),
    "ssm": frozenset({"GetParameter", "GetParameters", "GetParametersByPath"}),
    "sts": frozenset({"GetCallerIdentity"}),
    "pricing": frozenset({"GetProducts"}),
}
_FEWEST, _MOST = 5, 1000
_NOT_IN_THE_MODEL = {"DescribeFleetInstances": "ActiveInstances", "DescribeSpotPriceHistory": "SpotPriceHistory"}
_FROM_ONE = frozenset({"DescribeFleets", "DescribeFleetInstances", "DescribeSpotPriceHistory", "DescribeImages"})
"""Their pages say 1 to 1000; of those that say nothing, EC2 takes 5 to 1000 ("Expecting a value greater than 5.")."""

_UNASKED = {"DescribeInstances": 100}
"""How many come where nobody says how many: EC2 promises nothing, and who reads one page alone is to be wrong here."""


def model(operation: str) -> Any:
    """AWS's model of one operation of EC2: botocore's OperationModel."""
    return get_service_model("ec2").operation_model(operation)


@cache
def filters(operation: str) -> frozenset[str]:
    """The names that an operation's filters may have; `tag:` stands for all that begin so."""
    members = model(operation).input_shape.members
    shape = members.get("Filters") or members.get("Filter")
    if shape is None:
        return frozenset()
    named = re.findall(r"<li>\s*<p>\s*<code>([a-z0-9.-]+)", shape.documentation)
    return frozenset("tag:" if name == "tag" else name for name in named)


@cache
def page_bounds(operation: str) -> tuple[int, int]:
    """The least and the most that MaxResults may be."""
    shape = model(operation).input_shape.members["MaxResults"]
    told = re.search(r"between (\d+) and (\d+)", shape.documentation)
    if told:
        return int(told[1]), int(told[2])
    least = 1 if operation in _FROM_ONE else _FEWEST
    return int(shape.metadata.get("min", least)), int(shape.metadata.get("max", _MOST))


def page_size(operation: str) -> int:
    """How many results come at a time where the request does not say."""
    return _UNASKED.get(operation, page_bounds(operation)[1])


@cache
def paged(operation: str) -> str | None:
    """The member of the answer that comes in pages; None for an operation that answers in one piece."""
    if "NextToken" not in model(operation).input_shape.members:
        return None
    found = get_pagination_model("ec2").get(operation)
    return str(found["result_key"]) if found else _NOT_IN_THE_MODEL[operation]


@cache
def ids_without_pages(operation: str) -> str | None:
    """The parameter of ids that may not be given together with MaxResults, where the page says so of one."""
    members = model(operation).input_shape.members
    if (
        "MaxResults" not in members
        or "You cannot specify this parameter and" not in members["MaxResults"].documentation
    ):
        return None
    return next(str(name) for name in members if name.endswith("Ids"))
