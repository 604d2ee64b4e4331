"""Attempts in two regions: without capacity in the first the next is tried, and whatever ends it, both are cleared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from e2e_tool import Gpuctl, the_error

from gpuctl.aws.account import Account
from gpuctl.aws.images import find_image
from gpuctl.aws.inventory import find_resources
from gpuctl.aws.offers import find_offers
from gpuctl.core.errors import NoCapacity
from gpuctl.core.offers import Requirements, rank
from gpuctl.core.plan import images_wanted, plan_attempts
from gpuctl.core.profile import Profile
from gpuctl.state.paths import Paths, paths
from gpuctl.state.runs import run_folder
from gpuctl.workflows.clouds import embedded_profile
from gpuctl.workflows.down import down, run_by_name
from gpuctl.workflows.launch import launch
from gpuctl.workflows.planning import Planned, Request, plan_launch, read_request
from tests.reporters import Silent

ELSEWHERE = "eu-west-1"


def planned_in_two_regions(profile: Profile, here: Paths, project: Path) -> Planned:
    """A plan of this region, and after that the same in another one."""
    asked = read_request(Request(job=str(project), words=("python", "train.py"), name="regions"))
    planned = plan_launch(asked, profile=profile, paths=here, now=datetime.now(timezone.utc))
    first, there = planned.plan.attempts[0], planned.account.in_region(ELSEWHERE)
    offers = rank(find_offers(there, Requirements()), Requirements())
    (second,) = plan_attempts(offers, {wish: find_image(there, wish[1]) for wish in images_wanted(offers)})
    second = replace(second, number=2)
    return replace(planned, plan=replace(planned.plan, attempts=(first, second)))


def test_every_region_in_which_something_was_begun_is_cleared(gpuctl: Gpuctl, project: Path) -> None:
    """By the undo of a launch that found no capacity anywhere, and by `down` of a run whose host is in the second."""
    profile, here = embedded_profile(gpuctl.cloud()), paths({"GPUCTL_HOME": str(gpuctl.home)})
    planned = planned_in_two_regions(profile, here, project)
    accounts = [planned.account, planned.account.in_region(ELSEWHERE)]

    gpuctl.fault(operation="CreateFleet", capacity=True, times=-1)
    with pytest.raises(NoCapacity):
        launch(planned, profile=profile, paths=here, reporter=Silent())
    assert [find_resources(account, run="regions") for account in accounts] == [[], []]

    gpuctl.no_faults()
    for pool in planned.plan.attempts[0].pools:
        gpuctl.fault(operation="CreateFleet", zone=pool.zone, times=-1)
    launched = launch(planned, profile=profile, paths=here, reporter=Silent())
    assert launched.record.current.region == ELSEWHERE
    assert launched.instances[0].zone.startswith(ELSEWHERE)
    left_over, with_host = ({one.kind for one in find_resources(account, run="regions")} for account in accounts)
    assert left_over == {"launch-template", "security-group"} and "instance" in with_host

    run = run_by_name("regions", paths=here, cloud="embedded", region=None, tell=print)
    assert run.account.region == ELSEWHERE
    down([run], discard=True, now=datetime.now(timezone.utc), reporter=Silent())
    assert [find_resources(account, run="regions") for account in accounts] == [[], []]


@pytest.mark.prove
def test_a_region_that_is_silent_keeps_no_host_in_another(gpuctl: Gpuctl, project: Path) -> None:
    """`down` saves and removes the host that costs, says of which region it does not know, what the host there has is
    not called home, and the same again finishes it."""
    profile, here = embedded_profile(gpuctl.cloud()), paths({"GPUCTL_HOME": str(gpuctl.home)})
    planned = planned_in_two_regions(profile, here, project)
    for pool in planned.plan.attempts[0].pools:
        gpuctl.fault(operation="CreateFleet", zone=pool.zone, times=-1)
    launch(planned, profile=profile, paths=here, reporter=Silent())
    gpuctl("stop", "regions")
    gpuctl.fault(operation="DescribeLaunchTemplates", drop=True, times=-1, region="us-east-1")
    went = gpuctl("down", "regions", "-y", "--json", code=1)
    answer = json.loads(went.out)
    assert "instance" in {one["kind"] for one in answer["removed"]}
    assert "could not check what is left in us-east-1" in answer["failed"][0]["error"]
    assert find_resources(planned.account.in_region(ELSEWHERE), run="regions") == []
    assert (gpuctl.folder / "regions/outputs").is_dir() and not run_folder(here.runs, "regions").progress().home
    gpuctl.no_faults()
    assert "regions: nothing is left" in gpuctl("down", "regions", "--discard").out
    assert find_resources(planned.account, run="regions") == []


def test_a_name_that_is_a_runs_in_another_region_is_refused(gpuctl: Gpuctl, launched: Callable[..., str]) -> None:
    """Its keys are in the folder that the new run would get: without them its outputs could not be had any more."""
    run = launched(name="taken")
    words = ("launch", "project", "--name", run, "--region", ELSEWHERE, "-y", "--", "python", "train.py")
    refused = the_error(gpuctl(*words, code=2))
    assert f"the name {run} belongs to a run in us-east-1" in refused and f"gpuctl down {run}" in refused
    assert "train loss" in gpuctl("tail", run, "--no-follow").out
    down = gpuctl("down", run, "--region", ELSEWHERE, "-y")
    assert "nothing is left" in down.out and (gpuctl.folder / run / "outputs/checkpoint.pt").exists()


def test_ls_and_down_all_ask_where_this_laptop_has_runs(gpuctl: Gpuctl, project: Path) -> None:
    """And say which regions that were. One that is silent keeps no run elsewhere up, and is never read as empty."""
    words = ("--region", ELSEWHERE, "--name", "abroad", "-d", "-y", "--", "python", "train.py")
    gpuctl("launch", str(project), *words)
    listed = gpuctl.json("ls")
    assert [(row["run"], row["region"]) for row in listed["runs"]] == [("abroad", ELSEWHERE)]
    assert (listed["regions"], listed["silent"]) == (["us-east-1", ELSEWHERE], [])
    assert "no runs in us-east-1; " in gpuctl("ls", "--region", "us-east-1").err
    assert gpuctl("down", "--all", "-y", "--region", "us-east-1").out == "no runs of yours in us-east-1\n"

    gpuctl.fault(operation="DescribeInstances", code="InternalError", status=503, times=-1, region="us-east-1")
    listing = gpuctl("ls", code=1)
    assert "abroad" in listing.out and "nobody knows what is up in us-east-1 (" in listing.err
    went = gpuctl("down", "--all", "-y", "--discard", code=1)
    assert f"abroad: nothing is left in {ELSEWHERE}" in went.out
    assert the_error(went).startswith("us-east-1 did not answer, see above")
    gpuctl.no_faults()
    assert find_resources(Account(embedded_profile(gpuctl.cloud()), ELSEWHERE), run="abroad") == []
    gpuctl.forget_calls()
    assert "no runs in us-east-1; " in gpuctl("ls").err
    assert [call["operation"] for call in gpuctl.calls()] == ["DescribeInstances"], "no more than for one region"
    assert gpuctl("down", "--all", "-y").out == "no runs of yours in us-east-1\n"
