"""What AWS answers, or whatever is between: lists, prices, errors; and small answers over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from botocore.awsrequest import AWSResponse
from fuzzing import Parser, Read, Stranger

from gpuctl.aws.access import allows_ssh, caller_cidr, default_subnets
from gpuctl.aws.account import Account
from gpuctl.aws.fleet import create_fleet
from gpuctl.aws.images import find_image
from gpuctl.aws.inventory import find_instances, find_resources
from gpuctl.aws.offers import find_offers, on_demand_prices, spot_prices
from gpuctl.core.codec import dumps, parse
from gpuctl.core.errors import GpuctlError
from gpuctl.core.fleet import fleet_request
from gpuctl.core.hosts import Instance
from gpuctl.core.offers import Requirements
from gpuctl.core.profile import Profile
from gpuctl.core.tags import RunTags
from gpuctl.remote.ssh_target import ssh_target
from tests.plans import a_plan, an_attempt

ANSWERS = Path(__file__).with_name("answers")
IMAGE = "ami-0123456789abcdef0"
PROFILE = Profile(
    name="aws",
    caller_address_url="http://127.0.0.1:9/",
    image_parameters={"x86_64": "/image"},
    endpoint_url="http://127.0.0.1:9",
    access_key_id="AKIAEXAMPLE",
    secret_access_key="secret",
    default_region="us-east-1",
)
INSTANCE = Instance(
    *("i-1", "g6.xlarge", "us-east-1a", "spot", "running", datetime(2026, 1, 1, tzinfo=timezone.utc), None, None),
    RunTags("toy", "toy", "ada", datetime(2026, 1, 1, tzinfo=timezone.utc)),
)


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


def _is_json(operation: str) -> bool:
    return operation in ("GetParameter", "GetProducts")


def _operation(request: Any) -> str:
    """What a request asks for, in either of AWS's two forms."""
    target, body = request.headers.get("X-Amz-Target"), request.body
    if target:
        return (target if isinstance(target, str) else target.decode()).rpartition(".")[2]
    return parse_qs(body if isinstance(body, str) else body.decode())["Action"][0]


def good(operation: str) -> bytes:
    """An answer that is one."""
    (path,) = ANSWERS.glob(f"{operation}.*")
    return path.read_bytes()


def _answered(ask: Callable[[Account], object], tried: str, status: int = 200) -> Callable[[Path, ExitStack], Read]:
    """A question, of which one operation is answered by what is tried and all others as they should be."""

    def opened(folder: Path, stack: ExitStack) -> Read:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("gpuctl.aws.answers.PAUSE_S", 0.0)
        said: list[bytes] = []

        def answer(request: Any, **_: Any) -> AWSResponse:
            operation = _operation(request)
            spoilt = operation == tried or status != 200
            kind = "application/x-amz-json-1.1" if _is_json(operation) else "text/xml"
            content = said[-1] if spoilt else good(operation)
            return AWSResponse(request.url, status if spoilt else 200, {"Content-Type": kind}, _Raw(content))

        account = Account(PROFILE)
        clients = [account.client("ec2"), account.client("ssm"), account.client("sts")]
        for client in (*clients, account.client("pricing", region="us-east-1")):
            client.meta.events.register("before-send", answer)

        def read(data: bytes) -> None:
            said[:] = [data]
            parse(dumps({"found": str(ask(account))}))

        return read

    return opened


def _instances(account: Account) -> object:
    found = find_instances(account, include_gone=True)
    parse(dumps(found))
    return found


def _spot(account: Account) -> object:
    return {str(pool): float(price) for pool, price in spot_prices(account, ["g6.xlarge"]).items()}


def _offers(account: Account) -> object:
    return find_offers(account, Requirements())


def _image(account: Account) -> object:
    return find_image(account, "x86_64")


def _fleet(account: Account) -> object:
    request = fleet_request(a_plan(), an_attempt(), template={"LaunchTemplateName": "gpuctl-toy"}, hosts=1)
    return create_fleet(account, request, settle_s=0)


def _raw(folder: Path, stack: ExitStack) -> Read:
    """A server that is no AWS: this machine's address, and where a host is."""
    server = Stranger(stack, listens_first=True)
    url = f"http://127.0.0.1:{server.port}"
    profile = replace(PROFILE, caller_address_url=f"{url}/address", host_directory_url=f"{url}/hosts")

    def read(data: bytes) -> None:
        server.says = data
        try:
            caller_cidr(profile)
        except GpuctlError as error:
            assert str(error).isprintable()
        target = ssh_target(profile, INSTANCE, alias="toy", user="ubuntu")
        assert target.address.isprintable()

    return read


SMALL = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n"
    b'{"address": "127.0.0.1", "port": 2222}\n',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n127.0.0.1\r\n0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nnothing",
)
ERRORS = (
    b'<?xml version="1.0"?><Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized. '
    b"Encoded authorization failure message: AAAA</Message></Error></Errors><RequestID>1</RequestID></Response>",
    b'<?xml version="1.0"?><Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>None'
    b"</Message></Error></Errors><RequestID>1</RequestID></Response>",
    b"<html><body><h1>Sign in</h1></body></html>",
)
JSON_ERRORS = (
    b'{"__type": "com.amazonaws.ssm#ParameterNotFound", "message": "x"}',
    b'{"__type":"AccessDeniedException"}',
)


def _of(name: str, operation: str, ask: Callable[[Account], object]) -> Parser:
    return Parser(name, (good(operation),), _answered(ask, operation))


def parsers() -> tuple[Parser, ...]:
    """One row a border."""
    prices = on_demand_prices
    return (
        _of("EC2's instances", "DescribeInstances", _instances),
        _of("EC2's other resources", "DescribeVolumes", lambda a: find_resources(a, run="toy")),
        _of("the spot price history", "DescribeSpotPriceHistory", _spot),
        _of("the price list", "GetProducts", lambda account: prices(account, ["g6.xlarge"])),
        _of("EC2's instance types", "DescribeInstanceTypes", _offers),
        _of("EC2's subnets", "DescribeSubnets", default_subnets),
        _of("EC2's security groups", "DescribeSecurityGroups", lambda a: allows_ssh(a, "sg-1", "203.0.113.7/32")),
        _of("an image's parameter", "GetParameter", _image),
        _of("EC2's images", "DescribeImages", _image),
        _of("a fleet's answer", "CreateFleet", _fleet),
        _of("who asks", "GetCallerIdentity", lambda account: account.owner()),
        Parser("EC2's errors", ERRORS, _answered(_instances, "", 400), good=False),
        Parser("SSM's errors", JSON_ERRORS, _answered(_image, "", 400), good=False),
        Parser("a small answer over HTTP", SMALL, _raw),
    )
