"""An embedded cloud without hosts, once for all tests here: AWS as gpuctl sees it, over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from aws_world import CALLER, LEASE_ENDS, open_access

from gpuctl.aws.access import default_subnets
from gpuctl.aws.account import Account
from gpuctl.aws.fleet import FleetAnswer, create_fleet, create_template
from gpuctl.aws.images import find_image
from gpuctl.core.cloud_key import ACCESS_KEY_ID, request_headers
from gpuctl.core.fleet import fleet_request, template_request
from gpuctl.core.lease import Lease
from gpuctl.core.offers import Market
from gpuctl.core.plan import Attempt, Plan, Pool
from gpuctl.core.profile import Profile
from tests.plans import a_plan

IMAGES = {
    name: f"/aws/service/deeplearning/ami/{name}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
    for name in ("x86_64", "arm64")
}
SSH_CONFIG = {"bootcmd": [], "ssh_deletekeys": True, "ssh_pwauth": False}


@dataclass(frozen=True)
class Cloud:
    """An embedded cloud that runs, how to make it misbehave, and what it was asked."""

    endpoint: str
    key: str

    def fault(self, operation: str, **how: Any) -> None:
        """The next call of the operation goes wrong."""
        self._ask("POST", "faults", {"operation": operation, **how})

    def clear(self) -> None:
        """No more faults, no calls counted."""
        self._ask("DELETE", "faults")
        self._ask("DELETE", "calls")

    def calls(self) -> list[str]:
        """The operations called since `clear`, in order."""
        return [call["operation"] for call in self._ask("GET", "calls")["calls"]]

    def _ask(self, method: str, what: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.endpoint}/gpuctl/{what}"
        headers = {"Content-Type": "application/json", **request_headers(self.key, method, url)}
        request = Request(url, data, headers, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture(scope="session")
def running_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The cloud's process: one for the session, ended at its end."""
    state = tmp_path_factory.mktemp("cloud")

    def command(verb: str, *words: str) -> Any:
        line = [sys.executable, "-m", "gpuctl.embedded_cloud", verb, "--state", str(state), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr + _log(state)
        return json.loads(done.stdout)

    started = command("start", "--no-hosts")
    yield Cloud(started["endpoint"], json.loads((state / "cloud.json").read_text())["key"])
    assert command("stop")["stopped"]


def _log(state: Path) -> str:
    log = state / "cloud.log"
    return log.read_text()[-2000:] if log.exists() else ""


@pytest.fixture(autouse=True)
def cloud(running_cloud: Cloud) -> Iterator[Cloud]:
    """The cloud, well behaved at the beginning of every test."""
    running_cloud.clear()
    yield running_cloud
    running_cloud.clear()


@pytest.fixture(scope="session")
def profile(running_cloud: Cloud) -> Profile:
    """The cloud as gpuctl knows it: endpoint and credentials of its own."""
    return Profile(
        name="embedded",
        caller_address_url=f"{running_cloud.endpoint}/gpuctl/caller-address",
        image_parameters=IMAGES,
        endpoint_url=running_cloud.endpoint,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=running_cloud.key,
        default_region="us-east-1",
        cloud_key=running_cloud.key,
    )


@pytest.fixture(scope="session")
def account(profile: Profile) -> Account:
    """The caller's account there, one for all tests: a client takes a while to make."""
    return Account(profile)


@pytest.fixture
def no_credentials(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A cloud that leaves credentials to boto3's own chain, which finds none."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return replace(profile, access_key_id=None, secret_access_key=None)


@dataclass(frozen=True)
class Launch:
    """A run's plan and requests, ready to be carried out."""

    account: Account
    plan: Plan
    template: dict[str, Any]
    fleet: dict[str, Any]

    @property
    def attempt(self) -> Attempt:
        """The plan's only attempt."""
        return self.plan.attempts[0]

    def start(self) -> FleetAnswer:
        """Template and fleet."""
        create_template(self.account, self.template)
        return create_fleet(self.account, self.fleet)


Planner = Callable[..., Launch]


@pytest.fixture
def planned(account: Account) -> Planner:
    """Plans a run under a name of its own, its security group made: `planned(hosts=2)`."""

    def plan(*, hosts: int = 1, run: str | None = None, market: Market = "spot", owner: str | None = None) -> Launch:
        subnets = default_subnets(account)[:2]
        attempt = Attempt(
            number=1,
            region=account.region,
            market=market,
            image=find_image(account, "x86_64"),
            vpc_id=subnets[0].vpc_id,
            pools=tuple(Pool("g6.xlarge", "L4", 1, one.zone, one.subnet_id, Decimal("0.3")) for one in subnets),
        )
        name = run or f"test-{uuid.uuid4().hex[:8]}"
        made = a_plan(attempt, run=name, cloud="embedded", owner=owner or account.owner(), lease=Lease(LEASE_ENDS))
        group = open_access(account, made.tags, CALLER, vpc=attempt.vpc_id)
        text = "#cloud-config\n" + json.dumps(SSH_CONFIG)
        template = template_request(made, attempt, group_id=group, user_data=text)
        fleet = fleet_request(made, attempt, template=template, hosts=hosts)
        return Launch(account, made, template, fleet)

    return plan


@pytest.fixture
def soon() -> Callable[[float], float]:
    """A deadline in so many seconds."""
    return lambda seconds: time.monotonic() + seconds
