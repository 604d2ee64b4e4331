"""Who may reach a run's hosts."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aws_world import CALLER, LEASE_ENDS, open_access
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.aws.access import allow_ssh_from, caller_cidr, claim_group, default_subnets, parse_address
from gpuctl.aws.account import Account
from gpuctl.core.errors import CloudError, GpuctlError, NameInUse
from gpuctl.core.profile import Profile
from gpuctl.core.tags import RunTags


def some_tags(run: str | None = None) -> RunTags:
    return RunTags(run or f"test-{uuid.uuid4().hex[:8]}", "char_rnn", "000000000000:user/gpuctl", LEASE_ENDS)


def rules(account: Account, group_id: str) -> set[tuple[Any, ...]]:
    """The group's ingress rules as (protocol, from, to, source)."""
    [group] = account.client("ec2").describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    found = set()
    for rule in group["IpPermissions"]:
        sources = [one["CidrIp"] for one in rule.get("IpRanges", [])]
        sources += [one["CidrIpv6"] for one in rule.get("Ipv6Ranges", [])]
        sources += [one["GroupId"] for one in rule.get("UserIdGroupPairs", [])]
        found |= {(rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort"), source) for source in sources}
    return found


def exactly(cidr: str) -> set[tuple[Any, ...]]:
    return {("tcp", 22, 22, cidr)}


@pytest.fixture
def vpc(account: Account) -> str:
    return default_subnets(account)[0].vpc_id


def test_the_default_network_has_a_subnet_in_each_zone(account: Account) -> None:
    """What a fleet spreads over."""
    subnets = default_subnets(account)
    assert len({one.zone for one in subnets}) == len(subnets) >= 3
    for one in subnets:
        assert one.vpc_id.startswith("vpc-") and one.subnet_id.startswith("subnet-")
        assert one.region == "us-east-1" and one.zone.startswith("us-east-1")


def test_a_region_without_a_default_network_says_how_to_make_one(profile: Profile) -> None:
    """The next step is a command, with the region in it."""
    account = Account(profile, "ap-northeast-3")
    ec2 = account.client("ec2")
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    with pytest.raises(CloudError, match="aws ec2 create-default-vpc --region ap-northeast-3"):
        default_subnets(account)


def test_a_subnet_without_a_route_to_the_internet_is_not_used(profile: Profile) -> None:
    """A subnet's own route table counts, else the main one: with no way out in any, the next step says what to add."""
    account = Account(profile, "eu-north-1")
    ec2 = account.client("ec2")
    before = default_subnets(account)
    own = ec2.create_route_table(VpcId=before[0].vpc_id)["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(RouteTableId=own, SubnetId=before[0].subnet_id)
    assert default_subnets(account) == before[1:]
    filters: Any = [{"Name": "association.main", "Values": ["true"]}, {"Name": "vpc-id", "Values": [before[0].vpc_id]}]
    (main,) = ec2.describe_route_tables(Filters=filters)["RouteTables"]
    ec2.delete_route(RouteTableId=main["RouteTableId"], DestinationCidrBlock="0.0.0.0/0")
    with pytest.raises(CloudError, match=r"no host could be reached in eu-north-1.*0\.0\.0\.0/0.*of vpc-.*--region"):
        default_subnets(account)
    (gateway,) = ec2.describe_internet_gateways()["InternetGateways"]
    ec2.create_route(RouteTableId=own, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway["InternetGatewayId"])
    assert default_subnets(account) == before[:1]


def test_a_policy_that_has_no_routes_in_it_goes_on(profile: Profile, cloud) -> None:
    """What an earlier gpuctl needed is enough: all default subnets are used."""
    cloud.fault("DescribeRouteTables", code="UnauthorizedOperation", times=-1)
    assert default_subnets(Account(profile, "us-east-1"))


def test_a_runs_group_lets_in_its_caller_alone(account: Account, vpc: str) -> None:
    """One rule, the run's tags, the run's name."""
    tags = some_tags()
    group_id = open_access(account, tags, CALLER, vpc=vpc)
    assert rules(account, group_id) == exactly(CALLER)
    [group] = account.client("ec2").describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    assert group["GroupName"] == f"gpuctl-{tags.run}"
    assert group["VpcId"] == vpc
    assert tags.as_dict().items() <= {tag["Key"]: tag["Value"] for tag in group["Tags"]}.items()


def test_the_group_is_tagged_by_the_call_that_creates_it(account: Account, vpc: str, cloud) -> None:
    """No moment in which it is there and `down` would not find it."""
    open_access(account, some_tags(), CALLER, vpc=vpc)
    assert "CreateTags" not in cloud.calls()


def test_opening_access_again_changes_nothing(account: Account, vpc: str) -> None:
    """A launch that goes on after it was cut off."""
    tags = some_tags()
    first = open_access(account, tags, CALLER, vpc=vpc, claim="this-launch")
    assert open_access(account, tags, CALLER, vpc=vpc, claim="this-launch") == first
    assert rules(account, first) == exactly(CALLER)


def test_a_half_made_group_is_finished(account: Account, vpc: str, cloud) -> None:
    """The laptop was gone between the group and its rules."""
    tags = some_tags()
    cloud.fault("AuthorizeSecurityGroupIngress", code="UnauthorizedOperation")
    with pytest.raises(GpuctlError):
        open_access(account, tags, CALLER, vpc=vpc, claim="this-launch")
    group_id = open_access(account, tags, CALLER, vpc=vpc, claim="this-launch")
    assert rules(account, group_id) == exactly(CALLER)


def test_of_two_launches_at_once_one_gets_the_name(account: Account, vpc: str) -> None:
    """The group is the claim: who comes second touches nothing."""
    tags = some_tags()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(open_access, account, tags, CALLER, vpc=vpc) for _ in range(4)]
        errors = [future.exception() for future in futures]
    [group_id] = [future.result() for future, error in zip(futures, errors, strict=True) if error is None]
    assert [type(error) for error in errors if error is not None] == [NameInUse] * 3
    assert rules(account, group_id) == exactly(CALLER)


def test_somebody_elses_group_is_not_taken_over(account: Account, vpc: str) -> None:
    """A group of that name without the run's tag is left as it is."""
    tags = some_tags()
    ec2 = account.client("ec2")
    other = ec2.create_security_group(GroupName=f"gpuctl-{tags.run}", Description="mine", VpcId=vpc)["GroupId"]
    with pytest.raises(CloudError, match="does not belong to run"):
        open_access(account, tags, CALLER, vpc=vpc, claim="this-launch")
    assert rules(account, other) == set()


def test_a_lost_answer_is_no_other_launchs_group(account: Account, vpc: str, cloud) -> None:
    """The group is made, nothing comes back, and the call made again is told that the name is taken: by this launch."""
    tags = some_tags()
    for fault in ({"drop": True}, {"body": "page"}, {"body": "empty"}):
        cloud.fault("CreateSecurityGroup", **fault)
        group_id = claim_group(account, tags, vpc=vpc, claim=str(fault))
        assert len(held(account, tags)) == 1
        with pytest.raises(NameInUse):
            claim_group(account, tags, vpc=vpc, claim="another launch")
        account.client("ec2").delete_security_group(GroupId=group_id)


def test_a_lost_answers_group_that_ec2_does_not_know_yet(account: Account, vpc: str, cloud) -> None:
    """Its name is taken and nobody finds it: it is waited for, then set up, as soon as EC2 knows it everywhere."""
    tags = some_tags()
    cloud.fault("CreateSecurityGroup", unseen_s=1.5)
    cloud.fault("CreateSecurityGroup", drop=True)
    group_id = open_access(account, tags, CALLER, vpc=vpc, claim="this-launch")
    assert rules(account, group_id) == exactly(CALLER)


def held(account: Account, tags: RunTags) -> list[str]:
    found = account.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [f"gpuctl-{tags.run}"]}]
    )
    return [group["GroupId"] for group in found["SecurityGroups"]]


def test_a_group_that_is_not_found_at_once_is_waited_for(account: Account, vpc: str, cloud) -> None:
    """EC2 may not know a new group everywhere for a moment."""
    cloud.fault("DescribeSecurityGroups", code="InvalidGroup.NotFound", times=2)
    slept: list[float] = []
    group_id = open_access(account, some_tags(), CALLER, vpc=vpc, sleep=slept.append)
    assert rules(account, group_id) == exactly(CALLER)
    assert len(slept) == 2


def test_a_callers_new_address_replaces_the_old_one(account: Account, vpc: str) -> None:
    """Rules become exactly these, whatever was there, and a second time nothing is to be done."""
    group_id = open_access(account, some_tags(), CALLER, vpc=vpc)
    account.client("ec2").authorize_security_group_ingress(
        GroupId=group_id,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": 22,
                "ToPort": 22,
                "IpRanges": [{"CidrIp": "0.0.0.0/0"}, {"CidrIp": "198.51.100.1/32", "Description": "by hand"}],
                "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            },
            {"IpProtocol": "tcp", "FromPort": 8888, "ToPort": 8888, "IpRanges": [{"CidrIp": CALLER}]},
            {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
        ],
    )
    allow_ssh_from(account, group_id, "198.51.100.9/32")
    assert rules(account, group_id) == exactly("198.51.100.9/32")
    allow_ssh_from(account, group_id, "198.51.100.7/32")
    assert rules(account, group_id) == exactly("198.51.100.7/32")


def test_the_right_rules_are_left_alone(account: Account, vpc: str, cloud) -> None:
    """Looking costs one call, and no connection is cut."""
    group_id = open_access(account, some_tags(), CALLER, vpc=vpc)
    cloud.clear()
    allow_ssh_from(account, group_id, CALLER)
    assert cloud.calls() == ["DescribeSecurityGroups"]


def test_a_new_rule_is_there_before_the_old_one_goes(account: Account, vpc: str, cloud) -> None:
    """A connection in use is not cut in between."""
    group_id = open_access(account, some_tags(), CALLER, vpc=vpc)
    cloud.clear()
    allow_ssh_from(account, group_id, "198.51.100.9/32")
    changes = [call for call in cloud.calls() if call != "DescribeSecurityGroups"]
    assert changes == ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"]


def test_two_that_set_the_same_caller_agree(account: Account, vpc: str) -> None:
    """A rule that the other has added or revoked meanwhile is no error."""
    group_id = open_access(account, some_tags(), CALLER, vpc=vpc)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(allow_ssh_from, account, group_id, "198.51.100.9/32") for _ in range(4)]:
            future.result()
    assert rules(account, group_id) == exactly("198.51.100.9/32")


def test_a_group_that_is_gone_says_so(account: Account) -> None:
    """Not forever waited for, and told in one line."""
    with pytest.raises(CloudError, match="sg-0123456789abcdef0 is gone"):
        allow_ssh_from(account, "sg-0123456789abcdef0", CALLER, settle_s=0)


class Answering(BaseHTTPRequestHandler):
    """A service that says what a machine's address is, or something else."""

    answer = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_the_callers_address_is_asked_for(profile: Profile) -> None:
    """The embedded cloud sees this machine at its loopback address."""
    assert caller_cidr(profile) == "127.0.0.1/32"


@pytest.mark.parametrize("answer", [b"<html>sign in</html>", b"", b"127.0.0.1\n" + b" " * 100, b"0.0.0.0/0"])
def test_an_answer_that_is_no_address_is_refused(profile: Profile, answer: bytes) -> None:
    """A sign-in page, nothing, or more than an address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), {"answer": answer}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with pytest.raises(CloudError, match="did not answer with an address"):
            caller_cidr(replace(profile, caller_address_url=url))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_answer_is_told(profile: Profile) -> None:
    """The service's address is in the message."""
    with pytest.raises(CloudError, match=r"could not get this machine's address from http://127\.0\.0\.1:9/"):
        caller_cidr(replace(profile, caller_address_url="http://127.0.0.1:9/"))
    with pytest.raises(CloudError, match="not a web address"):
        caller_cidr(replace(profile, caller_address_url="file:///etc/hostname"))


@pytest.mark.parametrize(
    ("raw", "cidr"),
    [
        (b"8.8.8.8", "8.8.8.8/32"),
        (b" 8.8.8.8\r\n", "8.8.8.8/32"),
        (b"::ffff:8.8.8.8", "8.8.8.8/32"),
    ],
)
def test_an_address_becomes_a_block_of_itself(raw: bytes, cidr: str) -> None:
    """One address, nothing around it."""
    assert parse_address(raw, loopback=False, source="x") == cidr


@pytest.mark.parametrize(
    "raw",
    [
        b"0.0.0.0",
        b"0.0.0.0/0",
        b"8.8.8.8/8",
        b"10.0.0.1",
        b"192.168.1.1",
        b"127.0.0.1",
        b"169.254.169.254",
        b"224.0.0.1",
        b"255.255.255.255",
        b"::",
        b"::1",
        b"2606:4700::6810:84e5\n",
        b"::/0",
        b"fe80::1%eth0",
        b"2606:4700::1%eth0",
        b"ff0e::1",
        b"8.8.8.8 9.9.9.9",
        b"8.8.8.8;rm -rf",
        b"010.010.010.010",
        b"134744072",
        "٨.٨.٨.٨".encode(),
        b"\xff\xfe",
        b"",
    ],
)
def test_what_cannot_be_a_callers_public_address_is_refused(raw: bytes) -> None:
    """A stranger's text opens no door."""
    with pytest.raises(CloudError):
        parse_address(raw, loopback=False, source="x")


def test_on_this_machine_only_this_machine_is_a_caller() -> None:
    """An embedded cloud's hosts are never opened to the internet."""
    assert parse_address(b"127.0.0.1", loopback=True, source="x") == "127.0.0.1/32"
    with pytest.raises(CloudError):
        parse_address(b"8.8.8.8", loopback=True, source="x")


@given(st.binary(max_size=70))
def test_any_bytes_are_one_address_or_refused(raw: bytes) -> None:
    """Nothing but one IPv4 address ever comes out."""
    try:
        cidr = parse_address(raw, loopback=False, source="x")
    except CloudError:
        return
    assert cidr.endswith("/32") and ":" not in cidr
