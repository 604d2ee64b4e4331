"""What a real account says that an embedded one would not: a person gets the words of the table in docs/aws.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuctl.aws.access import caller_cidr, default_subnets
from gpuctl.aws.account import Account
from gpuctl.aws.fleet import wait_until_running
from gpuctl.aws.inventory import find_instances
from gpuctl.aws.offers import find_offers
from gpuctl.core.errors import GpuctlError
from gpuctl.core.offers import Requirements
from gpuctl.core.profile import Profile

PAGE = Path(__file__).resolve().parents[2] / "docs/aws.md"
UNAUTHORIZED = (
    "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ada is not authorized to "
    "perform: ec2:RunInstances on resource: arn:aws:ec2:us-east-1:123456789012:instance/* because no identity-based "
    "policy allows the ec2:RunInstances action. Encoded authorization failure message: "
)
NOT_FREE = (
    "The specified instance type is not eligible for Free Tier. For a list of Free Tier instance types, run "
    "'describe-instance-types' with the filter 'free-tier-eligible=true'."
)
"""https://github.com/splunk/attack_range/issues/1302"""
BEING_VALIDATED = (
    "Your request for accessing resources in this region is being validated, and you will not be able to launch "
    "additional resources in this region until the validation is complete."
)
"""https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, PendingVerification"""


@dataclass(frozen=True)
class World:
    """The account, and how to make a host there: `host(market=…)` raises why there is none."""

    account: Account
    profile: Profile
    host: Callable[..., Any]


@pytest.fixture
def world(account: Account, profile: Profile, planned: Any, soon: Any) -> Iterator[World]:
    """A run that is launched; in the end it has no instance."""
    runs: list[str] = []

    def host(**how: Any) -> None:
        launch = planned(**how)
        runs.append(launch.plan.run)
        wait_until_running(account, launch.start().instance_ids, deadline=soon(30))

    yield World(account, profile, host)
    for run in runs:
        assert all(one.state in ("shutting-down", "terminated") for one in find_instances(account, run=run))


def table() -> dict[str, int]:
    """The page's words and exit codes."""
    section = PAGE.read_text().partition("## What an account may say\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {words: int(code) for _, words, code in rows[2:]}


def address(answer: str) -> tuple[dict[str, Any], Callable[[World], object]]:
    return {"operation": "CallerAddress", "message": answer}, lambda world: caller_cidr(world.profile)


def fleet(market: str = "spot", **fault: Any) -> tuple[dict[str, Any], Callable[[World], object]]:
    return {"operation": "CreateFleet", "times": -1, **fault}, lambda world: world.host(market=market)


CASES: dict[str, tuple[dict[str, Any], Callable[[World], object]]] = {
    "an IPv6 address": address("2001:db8::7"),
    "a proxy's address": address("10.0.0.7"),
    "a page for an address": address("<html>sign in</html>"),
    # https://repost.aws/knowledge-center/encrypted-volumes-stops-immediately
    "a key that may not be used": fleet(ends="Client.InternalError: Client error on launch"),
    # https://github.com/hashicorp/packer/issues/12683
    "a key that is disabled": fleet(
        ends="Client.InvalidKMSKey.InvalidState: The KMS key provided is in an incorrect state"
    ),
    "the Free plan": fleet(capacity=True, code="InvalidParameterCombination", message=NOT_FREE),
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html
    "no spot quota": fleet(
        capacity=True, code="MaxSpotInstanceCountExceeded", message="Max spot instance count exceeded"
    ),
    "no on-demand quota": fleet("on-demand", capacity=True, code="VcpuLimitExceeded"),
    "a new account": fleet(code="PendingVerification", message=BEING_VALIDATED),
    "no permission": fleet(capacity=True, code="UnauthorizedOperation", message=UNAUTHORIZED + "x" * 900),
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
    "no role for spot": fleet(code="AuthFailure.ServiceLinkedRoleCreationNotPermitted"),
    # https://repost.aws/knowledge-center/iam-validate-access-credentials
    "a region that is not enabled": (
        {"operation": "GetCallerIdentity", "code": "InvalidClientTokenId", "status": 403},
        lambda world: world.account.owner(),
    ),
    "an old GPU": (
        {"operation": "-"},
        lambda world: find_offers(world.account, Requirements(instance_type="p3dn.24xlarge")),
    ),
    "a network without a way out": (
        {"operation": "-"},
        lambda world: default_subnets(without_way_out(Account(world.profile, "eu-west-3"))),
    ),
}


def without_way_out(account: Account) -> Account:
    """The account, after somebody took the route to the internet out of its default network."""
    (table,) = account.client("ec2").describe_route_tables()["RouteTables"]
    account.client("ec2").delete_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0")
    return account


@pytest.mark.parametrize(("fault", "act"), CASES.values(), ids=CASES)
def test_a_person_gets_the_words_of_the_page(
    world: World, cloud: Any, fault: dict[str, Any], act: Callable[[World], object]
) -> None:
    """In one line, with the exit code; and where no host is made, none is left."""
    cloud.fault(**fault)
    with pytest.raises(GpuctlError) as error:
        act(world)
    said = re.sub(r"http://127\S+/caller-address", "https://checkip.amazonaws.com", str(error.value))
    said = re.sub(r"\b(i|vpc)-[0-9a-f]{17}", r"\1-…", said)
    assert table().get(said) == error.value.exit_code, said


def test_a_free_plans_refusal_is_told_though_other_pools_lack_capacity(world: World, cloud: Any) -> None:
    """No other pool, market or time would change it, so it is no lack of capacity, and no other offer is tried."""
    cloud.fault("CreateFleet", zone="us-east-1a", code="InvalidParameterCombination", message=NOT_FREE, times=-1)
    cloud.fault("CreateFleet", zone="us-east-1b", times=-1)
    with pytest.raises(GpuctlError, match="upgrade the account") as error:
        world.host()
    assert error.value.exit_code == 5


def test_a_quota_is_told_though_other_pools_lack_capacity(world: World, cloud: Any) -> None:
    """The one can be changed by asking for it, and the other will change."""
    cloud.fault("CreateFleet", zone="us-east-1a", code="MaxSpotInstanceCountExceeded", times=-1)
    cloud.fault("CreateFleet", zone="us-east-1b", times=-1)
    with pytest.raises(GpuctlError, match=r"no spot capacity, and quotas do not allow any more.*larger quota"):
        world.host()
