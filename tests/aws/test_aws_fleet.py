"""Making hosts."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gpuctl.aws.account import Account
from gpuctl.aws.fleet import create_fleet, create_template, wait_until_running
from gpuctl.aws.inventory import find_instances
from gpuctl.core.errors import CloudError, NoCapacity, NotAllowed


def test_a_host_is_what_the_plan_says(planned, account: Account, soon) -> None:
    """Market, tags, group, IMDSv2, encryption and what happens at a power-off, as EC2 itself tells of them."""
    launch = planned()
    answer = launch.start()
    [instance] = wait_until_running(account, answer.instance_ids, deadline=soon(30))
    assert instance.market == "spot"
    assert instance.state == "running"
    assert instance.tags == launch.plan.tags
    assert instance.zone in [one.zone for one in launch.attempt.pools]
    ec2 = account.client("ec2")
    [raw] = ec2.describe_instances(InstanceIds=[instance.instance_id])["Reservations"][0]["Instances"]
    assert raw["MetadataOptions"]["HttpTokens"] == "required"
    assert raw["ImageId"] == launch.attempt.image.image_id
    assert "KeyName" not in raw
    assert [group["GroupName"] for group in raw["SecurityGroups"]] == [f"gpuctl-{launch.plan.run}"]
    behaviour = ec2.describe_instance_attribute(
        InstanceId=instance.instance_id, Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    [device] = raw["BlockDeviceMappings"]
    assert device["Ebs"]["DeleteOnTermination"] is True
    [volume] = ec2.describe_volumes(VolumeIds=[device["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Encrypted"], volume["VolumeType"], volume["Size"]) == (True, "gp3", launch.attempt.image.volume_gib)
    for tagged in (volume["Tags"], raw["Tags"]):
        tags = {tag["Key"]: tag["Value"] for tag in tagged}
        assert launch.plan.tags.as_dict().items() <= tags.items()


def test_the_same_request_finds_the_same_hosts(planned, account: Account) -> None:
    """Asked again from what was kept in a file, EC2 answers with what it made, and nothing new is there."""
    launch = planned(hosts=2)
    first = launch.start()
    kept = json.loads(json.dumps([launch.template, launch.fleet]))
    assert create_template(account, kept[0]) == create_template(account, launch.template)
    again = create_fleet(account, kept[1])
    assert (again.fleet_id, again.instance_ids) == (first.fleet_id, first.instance_ids)
    assert len(find_instances(account, run=launch.plan.run)) == 2


def test_a_lost_answer_makes_no_second_host(planned, account: Account, cloud) -> None:
    """The connection closes after the fleet was made: the retry's answer is that fleet."""
    launch = planned()
    cloud.fault("CreateFleet", drop=True)
    cloud.fault("CreateLaunchTemplate", drop=True)
    answer = launch.start()
    assert cloud.calls().count("CreateFleet") == 2
    assert [one.instance_id for one in find_instances(account, run=launch.plan.run)] == list(answer.instance_ids)


def test_a_template_that_ec2_does_not_know_yet_is_tried_again(planned, account: Account, cloud) -> None:
    """Each pool says so; the same token would have that answer again, so the next has another, and makes one host."""
    launch = planned()
    cloud.fault("CreateLaunchTemplate", unseen_s=1)
    create_template(account, launch.template)
    tries: list[int] = []
    answer = create_fleet(account, launch.fleet, on_try=tries.append)
    assert len(answer.instance_ids) == 1 and tries == list(range(len(tries))) and len(tries) > 1
    again = create_fleet(account, launch.fleet, tries=tries[-1])
    assert again.instance_ids == answer.instance_ids
    assert len(find_instances(account, run=launch.plan.run)) == 1


def test_a_template_that_stays_unknown_is_told(planned, account: Account, cloud) -> None:
    """The wait has an end."""
    launch = planned()
    cloud.fault("CreateLaunchTemplate", unseen_s=30)
    create_template(account, launch.template)
    with pytest.raises(CloudError, match="EC2 does not yet know what was created"):
        create_fleet(account, launch.fleet, settle_s=0)


def test_two_that_launch_the_same_run_at_once_make_one_host(planned, account: Account) -> None:
    """The token is the run's, not the process's."""
    launch = planned()
    with ThreadPoolExecutor(2) as pool:
        answers = [future.result() for future in [pool.submit(launch.start) for _ in range(2)]]
    assert len({answer.instance_ids for answer in answers}) == 1
    assert len(find_instances(account, run=launch.plan.run)) == 1


def test_a_template_of_that_name_which_is_not_the_runs_is_refused(planned, account: Account) -> None:
    """Somebody else's template is not launched from."""
    launch = planned()
    name, data = launch.template["LaunchTemplateName"], {"ImageId": launch.attempt.image.image_id}
    account.client("ec2").create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    with pytest.raises(CloudError, match="does not belong to this run"):
        create_template(account, launch.template)


def test_several_hosts_are_all_or_none(planned, account: Account, cloud) -> None:
    """With room for one of three, there is no host at all."""
    launch = planned(hosts=3)
    cloud.fault("CreateFleet", capacity=True, available=1, times=-1)
    with pytest.raises(NoCapacity):
        launch.start()
    assert find_instances(account, run=launch.plan.run) == []


def test_a_pool_without_capacity_is_passed_over(planned, account: Account, cloud, soon) -> None:
    """The other zone has it."""
    launch = planned()
    full = launch.attempt.pools[0].zone
    cloud.fault("CreateFleet", zone=full, times=-1)
    [instance] = wait_until_running(account, launch.start().instance_ids, deadline=soon(30))
    assert instance.zone == launch.attempt.pools[1].zone


def test_no_capacity_anywhere_says_where_it_was_looked_for(planned, cloud) -> None:
    """Exit code 4; each reason once, with its types and zones."""
    launch = planned()
    cloud.fault("CreateFleet", capacity=True, times=-1)
    zones = ", ".join(one.zone for one in launch.attempt.pools)
    with pytest.raises(NoCapacity, match=rf"no spot capacity: \w+ \(g6\.xlarge in {zones}\)") as error:
        launch.start()
    assert error.value.exit_code == 4
    assert "--on-demand fallback" in str(error.value)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("MaxSpotInstanceCountExceeded", NoCapacity, "quota"),
        ("UnauthorizedOperation", NotAllowed, "permission"),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", NotAllowed, "create-service-linked-role"),
        ("InvalidFleetConfig", CloudError, "create the fleet"),
    ],
)
def test_a_fleet_that_is_refused_whole_is_told(planned, cloud, code: str, kind: type, said: str) -> None:
    """Quota, permission, the role that spot needs, and what is plainly wrong."""
    launch = planned()
    cloud.fault("CreateFleet", code=code, message="as AWS says", times=-1)
    with pytest.raises(kind, match=said):
        launch.start()


def test_an_account_under_review_has_no_capacity_and_no_quota_to_ask_for(planned, cloud) -> None:
    """EC2 says so of each pool: what helps is to wait for its mail."""
    launch = planned()
    cloud.fault("CreateFleet", capacity=True, code="PendingVerification", message="as AWS says", times=-1)
    with pytest.raises(NoCapacity, match=r"as AWS says.*AWS sends an email"):
        launch.start()


def test_throttling_is_waited_out(planned, account: Account, cloud) -> None:
    """Twice too many requests, then the host."""
    launch = planned()
    cloud.fault("CreateFleet", code="RequestLimitExceeded", status=503, times=2)
    assert len(launch.start().instance_ids) == 1


def test_a_price_that_is_too_low_is_no_capacity(planned) -> None:
    """EC2 holds the limit, too."""
    launch = planned()
    config = launch.fleet["LaunchTemplateConfigs"][0]
    overrides = [{**one, "MaxPrice": "0.01"} for one in config["Overrides"]]
    fleet = {**launch.fleet, "LaunchTemplateConfigs": [{**config, "Overrides": overrides}]}
    with pytest.raises(NoCapacity, match="SpotMaxPriceTooLow"):
        replace(launch, fleet=fleet).start()


def test_an_on_demand_host_is_one(planned, account: Account, soon) -> None:
    """The same template, another market."""
    [instance] = wait_until_running(account, planned(market="on-demand").start().instance_ids, deadline=soon(30))
    assert instance.market == "on-demand"


def test_a_host_that_ended_instead_of_running_says_why(planned, account: Account, soon) -> None:
    """EC2's reason, in one line, and no waiting for what will never be."""
    launch = planned()
    ids = launch.start().instance_ids
    account.client("ec2").terminate_instances(InstanceIds=list(ids))
    with pytest.raises(CloudError, match=rf"{ids[0]}, which ended at once"):
        wait_until_running(account, ids, deadline=soon(30))


def test_a_host_that_ec2_does_not_know_yet_is_waited_for(planned, account: Account, cloud, soon) -> None:
    """A new instance may not be found for a moment."""
    ids = planned().start().instance_ids
    cloud.fault("DescribeInstances", code="InvalidInstanceID.NotFound", times=2)
    [instance] = wait_until_running(account, ids, deadline=soon(30))
    assert instance.instance_id == ids[0]


def test_waiting_ends_at_the_deadline(account: Account, soon) -> None:
    """One line that names the instance."""
    slept: list[float] = []
    with pytest.raises(CloudError, match="i-0123456789abcdef0: not running in time"):
        wait_until_running(account, ["i-0123456789abcdef0"], deadline=soon(0), sleep=slept.append)
    assert slept == []


def test_several_are_waited_for_with_one_call(planned, account: Account, cloud, soon) -> None:
    """Ten hosts poll no more often than one, and come back in the order asked for."""
    ids = planned(hosts=10).start().instance_ids
    cloud.clear()
    instances = wait_until_running(account, ids, deadline=soon(60))
    assert [one.instance_id for one in instances] == list(ids)
    assert cloud.calls().count("DescribeInstances") <= 12
