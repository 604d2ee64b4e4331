"""What there is, by tag, and its removal."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from aws_world import LEASE_ENDS

from gpuctl.aws.account import Account
from gpuctl.aws.inventory import AWAY_S, Resource, find_instances, find_resources, survey
from gpuctl.aws.parallel import NotReady, gather, poll
from gpuctl.aws.removal import IN_USE_S, StillInUse, remove
from gpuctl.core.errors import CloudError, GpuctlError, NoAnswer, NotAllowed
from gpuctl.core.profile import Profile
from gpuctl.core.tags import RunTags


def everything(account: Account, run: str) -> list[Resource]:
    return find_resources(account, run=run)


def test_everything_of_a_run_is_found_by_its_tag(planned, account: Account) -> None:
    """Instance, template, volume, interface and group: each, and each once."""
    launch = planned()
    launch.start()
    kinds = Counter(one.kind for one in everything(account, launch.plan.run))
    assert kinds == Counter(
        {"instance": 1, "launch-template": 1, "volume": 1, "network-interface": 1, "security-group": 1}
    )
    assert {one.run for one in everything(account, launch.plan.run)} == {launch.plan.run}


def test_another_laptop_finds_it_too(planned, profile: Profile, account: Account) -> None:
    """The account is the database: a client that has never heard of the run sees all of it."""
    launch = planned()
    launch.start()
    assert everything(Account(profile), launch.plan.run) == everything(account, launch.plan.run)


def test_runs_and_owners_are_kept_apart(planned, account: Account) -> None:
    """One run's resources, one owner's, and a wildcard that is no wildcard."""
    mine, other = planned(), planned(owner="000000000000:user/somebody")
    mine.start()
    other.start()
    assert {one.tags.run for one in find_instances(account, run=mine.plan.run)} == {mine.plan.run}
    owned = {one.tags.run for one in find_instances(account, owner=account.owner())}
    assert mine.plan.run in owned
    assert other.plan.run not in owned
    assert other.plan.run not in {one.run for one in find_resources(account, owner=account.owner())}
    for pattern in ("*", "test-*", "test-????????"):
        assert find_instances(account, run=pattern) == []
        assert find_resources(account, run=pattern) == []


def test_what_is_not_gpuctls_is_not_found(account: Account) -> None:
    """The default group and somebody's own instance are nobody's to remove."""
    ec2 = account.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    [made] = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.large")["Instances"]
    found = {one.id for one in find_resources(account)}
    assert made["InstanceId"] not in found
    assert made["InstanceId"] not in {one.instance_id for one in find_instances(account)}
    [default] = ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    assert default["GroupId"] not in found


def test_a_run_is_removed_whole(planned, account: Account, soon) -> None:
    """Asked again, AWS has nothing of it; what went was told as it went, the instance first, the group last."""
    launch = planned(hosts=2)
    launch.start()
    resources = everything(account, launch.plan.run)
    removed: list[Resource] = []
    remove(account, resources, deadline=soon(60), on_removed=removed.append)
    assert everything(account, launch.plan.run) == []
    assert sorted(removed, key=str) == sorted(resources, key=str)
    assert [one.kind for one in removed][:2] == ["instance", "instance"]
    assert removed[-1].kind == "security-group"
    assert find_instances(account, run=launch.plan.run) == []
    states = {one.state for one in find_instances(account, run=launch.plan.run, include_gone=True)}
    assert states <= {"terminated"}


def test_removing_again_is_no_error(planned, account: Account, soon) -> None:
    """What is gone is gone, whoever removed it."""
    launch = planned()
    launch.start()
    resources = everything(account, launch.plan.run)
    remove(account, resources, deadline=soon(60))
    again: list[Resource] = []
    remove(account, resources, deadline=soon(60), on_removed=again.append)
    assert len(again) == len(resources)


def test_what_ec2_has_forgotten_counts_as_removed(account: Account, soon) -> None:
    """An hour after its end, an instance is no longer known: one such id does not keep the others."""
    unknown = [
        Resource("instance", "i-0123456789abcdef0", "x"),
        Resource("launch-template", "lt-0123456789abcdef0", "x"),
        Resource("volume", "vol-0123456789abcdef0", "x"),
        Resource("network-interface", "eni-0123456789abcdef0", "x"),
        Resource("security-group", "sg-0123456789abcdef0", "x"),
    ]
    removed: list[Resource] = []
    remove(account, unknown, deadline=soon(30), on_removed=removed.append)
    assert removed == unknown


class Clock:
    """A clock that goes by what is slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_what_was_made_and_is_not_found_is_not_gone(account: Account, soon) -> None:
    """Nobody has seen it yet: it counts as gone once it has stayed away for half a minute, and not before."""
    made = [Resource(kind, f"{kind}-0123456789abcdef0", "x", seen=False) for kind in ("instance", "launch-template")]
    clock = Clock()
    removed: list[tuple[str, float]] = []
    remove(
        account,
        [replace(one, id=one.id.replace("instance-", "i-").replace("launch-template-", "lt-")) for one in made],
        deadline=soon(300),
        sleep=clock.sleep,
        clock=clock,
        on_removed=lambda one: removed.append((one.kind, clock.now)),
    )
    assert [kind for kind, _ in removed] == ["instance", "launch-template"]
    assert removed[0][1] >= AWAY_S and removed[1][1] >= removed[0][1] + AWAY_S


def test_what_ec2_does_not_know_yet_is_removed_once_it_does(planned, account: Account, cloud, soon) -> None:
    """Each is asked to go again and again, and is said to be removed only where it is."""
    cloud.fault("CreateSecurityGroup", unseen_s=1.5)
    cloud.fault("CreateFleet", unseen_s=2)
    launch = planned()
    answer = launch.start()
    run = launch.plan.run
    assert [one for one in everything(account, run) if one.kind == "instance"] == []
    made = [Resource("instance", id_, run, seen=False) for id_ in answer.instance_ids]
    removed: list[Resource] = []
    remove(account, made, deadline=soon(60), on_removed=removed.append)
    assert removed == made
    [state] = {one.state for one in find_instances(account, run=run, include_gone=True)}
    assert state == "terminated"
    remove(account, everything(account, run), deadline=soon(60))


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("TerminateInstances", "InvalidInstanceID.NotFound"),
        ("DeleteLaunchTemplate", "InvalidLaunchTemplateId.NotFound"),
        ("DeleteSecurityGroup", "InvalidGroup.NotFound"),
    ],
)
def test_not_found_once_is_asked_again(planned, account: Account, cloud, soon, operation: str, code: str) -> None:
    """One answer of one part of EC2 is not the last word."""
    launch = planned()
    launch.start()
    cloud.fault(operation, code=code)
    remove(account, everything(account, launch.plan.run), deadline=soon(60))
    assert everything(account, launch.plan.run) == []


def test_what_hangs_on_a_host_that_may_not_be_ended_is_not_waited_for(planned, account: Account, cloud, soon) -> None:
    """The refusal is told at once; what does not hang on the host is gone, what does was tried once."""
    launch = planned()
    launch.start()
    cloud.fault("TerminateInstances", code="UnauthorizedOperation", message="no", times=-1)
    slept: list[float] = []
    with pytest.raises(NotAllowed, match="terminate i-"):
        remove(account, everything(account, launch.plan.run), deadline=soon(600), sleep=slept.append)
    assert slept == [] and cloud.calls().count("DeleteSecurityGroup") == 1
    kinds = {one.kind for one in everything(account, launch.plan.run)}
    assert "instance" in kinds and "launch-template" not in kinds


def test_a_kind_that_cannot_be_listed_does_not_hide_the_others(planned, account: Account, cloud) -> None:
    """What else there is is told beside the error."""
    launch = planned()
    launch.start()
    cloud.fault("DescribeVolumes", body="page", times=-1)
    found, failed = survey(account, run=launch.plan.run)
    assert {one.kind for one in found} == {"instance", "launch-template", "network-interface", "security-group"}
    assert [type(error) for error in failed] == [NoAnswer]


def test_a_page_that_reads_as_nothing_does_not_say_that_a_host_is_gone(planned, account: Account, cloud, soon) -> None:
    """A sign-in page that is well-formed XML has no instances in it: that is no answer, and is asked again."""
    launch = planned()
    launch.start()
    cloud.fault("DescribeInstances", body="xhtml", times=2)
    assert len(find_instances(account, run=launch.plan.run)) == 1
    cloud.fault("DescribeInstances", body="xhtml", times=-1)
    with pytest.raises(NoAnswer):
        remove(account, [Resource("instance", "i-0123456789abcdef0", "x")], deadline=soon(5))


def test_a_known_instance_ends_beside_an_unknown_one(planned, account: Account, soon) -> None:
    """EC2 refuses the whole call for one id that it does not know."""
    launch = planned()
    [id_] = launch.start().instance_ids
    run = launch.plan.run
    both = [Resource("instance", "i-0123456789abcdef0", run), Resource("instance", id_, run)]
    remove(account, both, deadline=soon(60))
    assert find_instances(account, run=run) == []


def test_two_that_take_down_the_same_run_agree(planned, account: Account, soon) -> None:
    """Neither fails over what the other has removed."""
    launch = planned()
    launch.start()
    resources = everything(account, launch.plan.run)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(remove, account, resources, deadline=soon(60)) for _ in range(2)]:
            future.result()
    assert everything(account, launch.plan.run) == []


def test_a_group_that_is_still_in_use_is_tried_again(planned, account: Account, cloud, soon) -> None:
    """An interface lets go of its group a moment after its instance has ended."""
    launch = planned()
    launch.start()
    cloud.fault("DeleteSecurityGroup", code="DependencyViolation", times=2)
    cloud.fault("DeleteVolume", code="VolumeInUse", times=1)
    cloud.fault("DeleteNetworkInterface", code="InvalidParameterValue", times=1)
    remove(account, everything(account, launch.plan.run), deadline=soon(60), sleep=lambda s: time.sleep(s / 10))
    assert everything(account, launch.plan.run) == []
    assert cloud.calls().count("DeleteSecurityGroup") == 3


def test_a_group_that_stays_in_use_is_given_back_to_the_caller(planned, account: Account, cloud, soon) -> None:
    """An instance that nobody finds yet may be what uses it: long before the deadline, whoever asked looks again."""
    launch = planned()
    launch.start()
    cloud.fault("DeleteSecurityGroup", code="DependencyViolation", times=-1)
    clock = Clock()
    with pytest.raises(StillInUse, match=r"security-group sg-.* is still in use"):
        remove(account, everything(account, launch.plan.run), deadline=soon(20), sleep=clock.sleep, clock=clock)
    assert IN_USE_S <= clock.now < 4 * IN_USE_S


def test_what_cannot_be_removed_does_not_keep_the_rest(planned, account: Account, cloud, soon) -> None:
    """A template that may not be deleted is told at the end; everything else is gone."""
    launch = planned()
    launch.start()
    cloud.fault("DeleteLaunchTemplate", code="UnauthorizedOperation", message="no", times=-1)
    with pytest.raises(NotAllowed, match="remove the launch-template lt-"):
        remove(account, everything(account, launch.plan.run), deadline=soon(60))
    assert [one.kind for one in everything(account, launch.plan.run)] == ["launch-template"]


def test_a_group_that_stays_in_use_is_told_at_the_deadline(account: Account, cloud, planned, soon) -> None:
    """What is left is named, and what to do."""
    launch = planned()
    [group] = everything(account, launch.plan.run)
    cloud.fault("DeleteSecurityGroup", code="DependencyViolation", times=-1)
    with pytest.raises(CloudError, match=rf"security-group {group.id} is still in use.*same command again"):
        remove(account, [group], deadline=soon(0))


def test_instances_that_may_not_be_ended_are_told(planned, account: Account, cloud, soon) -> None:
    """The host is still there, and so the error is raised."""
    launch = planned()
    launch.start()
    cloud.fault("TerminateInstances", code="UnauthorizedOperation", message="no", times=-1)
    with pytest.raises(NotAllowed, match="terminate i-"):
        remove(account, everything(account, launch.plan.run)[:1], deadline=soon(10))
    assert len(find_instances(account, run=launch.plan.run)) == 1


def test_long_lists_are_read_to_their_end(account: Account, soon) -> None:
    """More instances than a page of the API has, removed in more than one call."""
    tags = RunTags("pages", "j", "000000000000:user/pages", LEASE_ENDS)
    ec2: Any = account.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    pairs = [{"Key": key, "Value": value} for key, value in tags.as_dict().items()]
    for _ in range(103):
        ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.large",
            TagSpecifications=[{"ResourceType": "instance", "Tags": pairs}],
        )
    filters = [{"Name": "tag:gpuctl:run", "Values": ["pages"]}]
    assert ec2.describe_instances(Filters=filters).get("NextToken"), "one page is not all"
    found = find_resources(account, run="pages")
    assert len(found) == len(find_instances(account, owner=tags.owner)) == 103
    remove(account, found, deadline=soon(60))
    assert find_resources(account, run="pages") == []


def test_the_listing_asks_for_each_kind_once(account: Account, cloud) -> None:
    """Five calls, side by side."""
    find_resources(account, run="nobody")
    assert sorted(cloud.calls()) == [
        "DescribeInstances",
        "DescribeLaunchTemplates",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeVolumes",
    ]


def test_calls_together_answer_in_order_and_fail_with_the_first_error() -> None:
    """Which one is slower does not matter."""

    def slow() -> str:
        time.sleep(0.05)
        return "slow"

    assert gather([slow, lambda: "quick"]) == ["slow", "quick"]

    def fail(name: str, seconds: float) -> str:
        time.sleep(seconds)
        raise GpuctlError(name)

    with pytest.raises(GpuctlError, match="first"):
        gather([lambda: fail("first", 0.05), lambda: fail("second", 0)])


def test_waiting_slows_down_and_ends() -> None:
    """Short looks first, none longer than two seconds apart."""
    slept: list[float] = []
    left = iter(range(9))

    def look() -> str:
        if next(left) < 8:
            raise NotReady
        return "there"

    assert poll(look, deadline=time.monotonic() + 60, sleep=slept.append) == "there"
    assert slept == sorted(slept)
    assert slept[0] <= 0.1
    assert max(slept) == 2.0
