"""Who may reach a run's hosts: the caller's own address, the hosts of the same run, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, TypeVar

from gpuctl import web
from gpuctl.aws.account import Account
from gpuctl.aws.errors import ErrorClass, aws_errors, classify, code_of
from gpuctl.aws.parallel import NotReady, gather, poll
from gpuctl.core.errors import CloudError, NameInUse, NotAllowed
from gpuctl.core.offers import Subnet
from gpuctl.core.profile import Profile
from gpuctl.core.tags import CLAIM, RUN, RunTags

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import IpPermissionTypeDef, IpRangeTypeDef, SecurityGroupTypeDef

T = TypeVar("T")

SSH_PORT = 22
_ADDRESS_LIMIT = 64
"""Longer than any address: more than this is not one."""
_ADDRESS_TIMEOUT_S = 10
SETTLE_S = 30.0
"""How long what was made a moment ago may stay unknown to EC2."""


def caller_cidr(profile: Profile) -> str:
    """The caller's own address as `/32`, as the cloud's service for that sees it. Raises CloudError."""
    url = profile.caller_address_url
    try:
        raw = web.get(url, limit=_ADDRESS_LIMIT + 1, timeout_s=_ADDRESS_TIMEOUT_S, key=profile.cloud_key)
    except OSError as error:
        step = "check the network: SSH to a host goes the same way, over IPv4 and without a proxy"
        raise CloudError(f"could not get this machine's address from {url}: {error}", step) from error
    return parse_address(raw, loopback=web.is_loopback(url), source=url)


def parse_address(raw: bytes, *, loopback: bool, source: str) -> str:
    """An IPv4 address from a stranger, as a CIDR block of that one address. Raises CloudError for anything else.

    It must be one that can be a caller's: public, or of this machine where the cloud is on this machine too.
    """
    try:
        text = raw.decode("ascii").strip() if len(raw) <= _ADDRESS_LIMIT else ""
        found: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        raise CloudError(f"{source} did not answer with an address", "is there a sign-in page in the way?") from None
    address = found.ipv4_mapped if isinstance(found, IPv6Address) else found
    if address is None:
        raise CloudError(
            f"{source} answered with {found}, but hosts can only be reached over IPv4", "use a network that has IPv4"
        )
    fits = address.is_loopback if loopback else address.is_global and not address.is_multicast
    if not fits:
        raise CloudError(
            f"{source} answered with {address}, which cannot be this machine's public address",
            "is there a proxy or a VPN in between?",
        )
    return f"{address}/{address.max_prefixlen}"


def default_subnets(account: Account) -> list[Subnet]:
    """The default VPC's subnets that the internet reaches, one a zone, by zone. Raises CloudError where there is none.

    A host in another would be paid for and never answer.
    """
    calls: list[Callable[[], list[Any]]] = [lambda: _default_subnets(account), lambda: _route_tables(account)]
    found, tables = gather(calls)
    if not found:
        raise CloudError(
            f"the account has no default VPC with subnets in {account.region}",
            f"create one with `aws ec2 create-default-vpc --region {account.region}`, or try another --region",
        )
    with aws_errors("look for the default network's routes"):
        reached = [one for one in found if _is_reached(one, tables)]
        subnets = [Subnet(one["SubnetId"], one["VpcId"], one["AvailabilityZone"], account.region) for one in reached]
    if not reached:
        raise CloudError(
            f"no host could be reached in {account.region}: its default subnets have no route to an internet gateway",
            f"add a route from 0.0.0.0/0 to the internet gateway of {found[0]['VpcId']}, or try another --region",
        )
    return sorted(subnets, key=lambda subnet: subnet.zone)


def _default_subnets(account: Account) -> list[Any]:
    with aws_errors("look for the default network"):
        pages = account.client("ec2").get_paginator("describe_subnets")
        filters: Any = [
            {"Name": "default-for-az", "Values": ["true"]},
            {"Name": "state", "Values": ["available"]},
        ]
        return [subnet for page in pages.paginate(Filters=filters) for subnet in page["Subnets"]]


def _route_tables(account: Account) -> list[Any]:
    """None where the caller may not ask: a policy made for an earlier gpuctl does not have that action."""
    try:
        with aws_errors("look for the default network's routes"):
            pages = account.client("ec2").get_paginator("describe_route_tables")
            return [table for page in pages.paginate() for table in page["RouteTables"]]
    except NotAllowed:
        return []


def _is_reached(subnet: Any, tables: list[Any]) -> bool:
    """Whether a subnet's own route table, else its VPC's main one, leads to the internet.

    By the VPC's gateway, or a firewall's endpoint before it; what a table does not tell is no reason against a subnet.
    https://docs.aws.amazon.com/vpc/latest/userguide/VPC_Route_Tables.html
    """
    there = [(table, link) for table in tables if table["VpcId"] == subnet["VpcId"] for link in table["Associations"]]
    own = [table for table, link in there if link.get("SubnetId") == subnet["SubnetId"]]
    main = [table for table, link in there if link.get("Main")]
    if not (own or main):
        return True
    return any(
        route.get("GatewayId", "").startswith(("igw-", "vpce-"))
        for route in (own or main)[0]["Routes"]
        if route.get("State") == "active" and "DestinationCidrBlock" in route
    )


def claim_group(
    account: Account,
    tags: RunTags,
    *,
    vpc: str,
    claim: str,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The id of the run's security group, made now.

    To make it is to claim the run's name, as EC2 has a group's name once a VPC. One that is there already is another
    launch's (NameInUse), unless it carries the same `claim`: then this very launch made it, and its answer was lost.
    """
    ec2 = account.client("ec2")
    name = f"gpuctl-{tags.run}"
    pairs: Any = [{"Key": key, "Value": value} for key, value in {**tags.as_dict(), CLAIM: claim}.items()]
    with aws_errors(f"create the security group {name}"):
        try:
            return ec2.create_security_group(
                GroupName=name,
                Description=f"gpuctl run {tags.run}: its caller, and its hosts among themselves",
                VpcId=vpc,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": pairs}],
            )["GroupId"]
        except ec2.exceptions.ClientError as error:
            if classify(code_of(error)) is not ErrorClass.ALREADY:
                raise
        return _own_group(account, name, run=tags.run, vpc=vpc, claim=claim, settle_s=settle_s, sleep=sleep)


def allow_ssh_from(
    account: Account,
    group_id: str,
    cidr: str,
    *,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make the group's rules exactly this one: SSH from `cidr`.

    What is missing is added before what is too much is revoked, so that a connection in use is not cut. Each rule goes
    by itself, as the group really holds it: EC2 refuses a list of rules whole for one that is already there. A group
    that is not found, as a new one may be for a moment, is looked for again for `settle_s`.
    """
    wanted = [_ssh_from(cidr)]
    with aws_errors(f"set who may reach {group_id}"):
        held = _rules(_settled(account, group_id, settle_s=settle_s, sleep=sleep))
        for rule in wanted:
            if _key(rule) not in {_key(other) for other in held}:
                _until_known(group_id, partial(_authorize, account, group_id, rule), settle_s=settle_s, sleep=sleep)
        for rule in held:
            if _key(rule) not in {_key(other) for other in wanted}:
                _revoke(account, group_id, rule)


def allows_ssh(account: Account, group_id: str, cidr: str) -> bool:
    """Whether the group lets SSH in from `cidr`."""
    with aws_errors(f"check who may reach {group_id}"):
        held = account.client("ec2").describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]
        return _key(_ssh_from(cidr)) in {_key(rule) for rule in _rules(held)}


def _own_group(
    account: Account,
    name: str,
    *,
    run: str,
    vpc: str,
    claim: str,
    settle_s: float,
    sleep: Callable[[float], None],
) -> str:
    """The group of that name where it carries the claim. One that was made a moment ago is looked for for a while."""
    filters: Any = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]

    def look() -> SecurityGroupTypeDef:
        found = account.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
        if not found:
            raise NotReady
        return found[0]

    in_use = NameInUse(
        f"the name {run} is being used by another launch: {name} already exists",
        f"choose another --name, or `gpuctl down {run}` first",
    )
    try:
        group = poll(look, deadline=time.monotonic() + settle_s, sleep=sleep)
    except NotReady:
        raise in_use from None
    tags = {tag["Key"]: tag["Value"] for tag in group.get("Tags", [])}
    if tags.get(RUN) != run:
        raise CloudError(
            f"there is a security group {name} that does not belong to run {run}", "give the run another --name"
        )
    if tags.get(CLAIM) != claim:
        raise in_use
    return group["GroupId"]


def _settled(
    account: Account, group_id: str, *, settle_s: float, sleep: Callable[[float], None]
) -> SecurityGroupTypeDef:
    """The group, once EC2 knows it everywhere."""
    ec2 = account.client("ec2")

    def look() -> SecurityGroupTypeDef:
        try:
            return ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]
        except ec2.exceptions.ClientError as error:
            if classify(code_of(error)) is ErrorClass.GONE:
                raise NotReady from error
            raise

    return _until_known(group_id, look, settle_s=settle_s, sleep=sleep)


def _until_known(group_id: str, call: Callable[[], T], *, settle_s: float, sleep: Callable[[float], None]) -> T:
    try:
        return poll(call, deadline=time.monotonic() + settle_s, sleep=sleep)
    except NotReady as error:
        raise CloudError(f"the security group {group_id} is gone", "launch again, or `gpuctl down` the run") from error


def _authorize(account: Account, group_id: str, rule: IpPermissionTypeDef) -> None:
    ec2 = account.client("ec2")
    try:
        ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[rule])
    except ec2.exceptions.ClientError as error:
        if code_of(error) == "InvalidGroup.NotFound":  # seen, and not everywhere yet
            raise NotReady from error
        if classify(code_of(error)) is not ErrorClass.ALREADY:
            raise


def _revoke(account: Account, group_id: str, rule: IpPermissionTypeDef) -> None:
    ec2 = account.client("ec2")
    try:
        ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=[rule])
    except ec2.exceptions.ClientError as error:
        if classify(code_of(error)) is not ErrorClass.GONE:
            raise


def _ssh_from(cidr: str) -> IpPermissionTypeDef:
    source: IpRangeTypeDef = {"CidrIp": cidr, "Description": "the caller of this run"}
    return {"IpProtocol": "tcp", "FromPort": SSH_PORT, "ToPort": SSH_PORT, "IpRanges": [source]}


def _rules(group: Any) -> list[Any]:
    """What the group holds, one source a rule: EC2 tells several sources of the same ports together."""
    rules: list[Any] = []
    for held in group.get("IpPermissions", []):
        ports = {key: held[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in held}
        for sources in ("IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs"):
            rules += [{**ports, sources: [source]} for source in held.get(sources, [])]
    return rules


def _key(rule: Any) -> tuple[Any, ...]:
    """What makes two rules the same for EC2: ports and source, not the description."""
    for sources, name in (
        ("IpRanges", "CidrIp"),
        ("Ipv6Ranges", "CidrIpv6"),
        ("PrefixListIds", "PrefixListId"),
        ("UserIdGroupPairs", "GroupId"),
    ):
        if rule.get(sources):
            ports = (None, None) if rule["IpProtocol"] == "-1" else (rule.get("FromPort"), rule.get("ToPort"))
            return (rule["IpProtocol"], *ports, sources, rule[sources][0].get(name))
    return (rule["IpProtocol"],)
