"""Every operation that the embedded cloud offers, against AWS's model and page of it: `ec2_rows` has a row for each."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import boto3
import botocore.session
import pytest
from botocore import xform_name
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.serialize import create_serializer
from cloud_fixtures import DLAMI, REGION, Cloud, answered
from ec2_rows import ROWS, Made, Row

from gpuctl.core.cloud_key import ACCESS_KEY_ID
from gpuctl.embedded_cloud.operations import OFFERED, filters

EC2 = botocore.session.get_session().get_service_model("ec2")
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operation)


@dataclass(frozen=True)
class Answer:
    """What EC2 answered: its XML, and the error's code, None where there is none."""

    status: int
    root: ElementTree.Element
    code: str | None
    request_id: str | None


def ask(cloud: Cloud, operation: str, params: Mapping[str, Any], **form: str) -> Answer:
    """Sends a request that no client has looked at: `params` as the model has them, `form` on top."""
    body = create_serializer("ec2", include_validation=False).serialize_to_request(
        dict(params), EC2.operation_model(operation)
    )["body"]
    data = urllib.parse.urlencode({**body, **form}).encode()
    request = AWSRequest("POST", cloud.endpoint + "/", data=data)
    request.headers["Content-Type"] = "application/x-www-form-urlencoded"
    SigV4Auth(Credentials(ACCESS_KEY_ID, cloud.key), "ec2", REGION).add_auth(request)
    status, text = answered(urllib.request.Request(request.url, data=data, headers=dict(request.headers)))
    root = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", text, count=1))
    return Answer(
        status, root, root.findtext(".//Errors/Error/Code"), root.findtext("requestId") or root.findtext("RequestID")
    )


@pytest.fixture(scope="module")
def made(shared_cloud: Cloud) -> Iterator[Made]:
    resources = Made(shared_cloud)
    yield resources
    resources.remove_networks()


def test_every_operation_has_its_row() -> None:
    """What is offered and what is tested are the same."""
    assert sorted(row.operation for row in ROWS) == sorted(OFFERED["ec2"])
    others = {(service, name) for _, (service, name, _), _ in JSON_ROWS}
    assert others == {(key, xform_name(name)) for key in OFFERED if key != "ec2" for name in OFFERED[key]}


@pytest.mark.parametrize("operation", ["RequestSpotInstances", "CancelSpotInstanceRequests", "CreateImage", "Nonsense"])
def test_what_is_not_offered_is_an_invalid_action(cloud: Cloud, operation: str) -> None:
    """moto's own half of an operation is not shown."""
    answer = ask(cloud, "DescribeVpcs", {}, Action=operation)
    assert (answer.status, answer.code) == (400, "InvalidAction")


@each_row
def test_an_answer_is_of_the_models_shape(cloud: Cloud, made: Made, row: Row) -> None:
    """Each member of the answer is one that AWS's model has, and each request has an id of its own."""
    answer = ask(cloud, row.operation, row.takes(made))
    assert (answer.status, answer.code) == (200, None), row.page
    assert list(unknown_members(answer.root, EC2.operation_model(row.operation).output_shape)) == []
    again = ask(cloud, row.operation, {}, Nonsense="1")
    assert answer.request_id and again.request_id and answer.request_id != again.request_id


def unknown_members(element: ElementTree.Element, shape: Any, path: str = "") -> Iterator[str]:
    """The elements that a shape has not got."""
    if shape is None:
        yield from (child.tag for child in element if child.tag not in ("requestId", "return"))
    elif shape.type_name == "structure":
        names = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        for child in element:
            if child.tag in names:
                yield from unknown_members(child, names[child.tag], f"{path}.{child.tag}")
            elif path or child.tag != "requestId":
                yield f"{path}.{child.tag}"
    elif shape.type_name == "list":
        for child in element:
            yield from unknown_members(child, shape.member, f"{path}[]")


@each_row
def test_what_the_model_does_not_allow_is_refused(cloud: Cloud, made: Made, row: Row) -> None:
    """A parameter that there is not, one that is missing, one that is no number: before anything is done."""
    shape = EC2.operation_model(row.operation).input_shape
    params = row.takes(made) if shape.required_members else {}
    assert ask(cloud, row.operation, params, Nonsense="1").code == "UnknownParameter", row.page
    for name in shape.required_members:
        left = {key: value for key, value in params.items() if key != name}
        assert ask(cloud, row.operation, left).code == "MissingParameter", (name, row.page)
    assert ask(cloud, row.operation, params, DryRun="perhaps").code == "InvalidParameterValue"
    assert ask(cloud, row.operation, params, DryRun="true").code == "DryRunOperation"


@pytest.mark.parametrize("row", [row for row in ROWS if row.ids], ids=lambda row: row.operation)
def test_ids_are_told_apart(cloud: Cloud, made: Made, row: Row) -> None:
    """An id that is malformed, and one that nothing has, are refused with the codes of their kind."""
    params = row.takes(made)
    for name, (unknown, malformed, not_found) in row.ids.items():
        many = EC2.operation_model(row.operation).input_shape.members[name].type_name == "list"
        for value, code in (("x-1", malformed), (unknown[:-1], malformed), (unknown, not_found)):
            if code is not None:
                answer = ask(cloud, row.operation, {**params, name: [value] if many else value})
                assert (answer.status, answer.code) == (400, code), (name, value, row.page)


REFUSED = [(row, over, code) for row in ROWS for over, code in row.refuses]


@pytest.mark.parametrize(
    ("row", "over", "code"), REFUSED, ids=[f"{row.operation}-{'+'.join(over)}-{code}" for row, over, code in REFUSED]
)
def test_what_the_page_does_not_allow_is_refused(
    cloud: Cloud, made: Made, row: Row, over: dict[str, Any], code: str
) -> None:
    """What a page says of a value is so."""
    answer = ask(cloud, row.operation, {**row.takes(made), **over})
    assert (answer.status, answer.code) == (400, code), row.page


def with_member(name: str) -> list[Row]:
    return [row for row in ROWS if name in EC2.operation_model(row.operation).input_shape.members]


@pytest.mark.parametrize("row", with_member("Filters"), ids=lambda row: row.operation)
def test_a_filter_that_there_is_not_is_refused(cloud: Cloud, made: Made, row: Row) -> None:
    """A misspelt filter finds nothing to say, rather than everything."""
    params = row.takes(made)
    for wrong in ([{"Name": "colour", "Values": ["red"]}], [{"Values": ["red"]}]):
        answer = ask(cloud, row.operation, {**params, "Filters": wrong})
        assert answer.code == "InvalidParameterValue", row.page
    many = [{"Name": "tag:k", "Values": [str(n) for n in range(201)]}]
    if row.operation == "DescribeInstances":
        assert ask(cloud, row.operation, {"Filters": many}).code == "FilterLimitExceeded"


@pytest.mark.parametrize("row", with_member("NextToken"), ids=lambda row: row.operation)
def test_an_answer_comes_in_pages(cloud: Cloud, made: Made, row: Row) -> None:
    """Pages have no more than was asked for and are together the whole; a token that is none is refused."""
    params = {name: value for name, value in row.takes(made).items() if not name.endswith("Ids")}
    call = getattr(cloud.ec2, xform_name(row.operation))
    for over in ({"NextToken": "nonsense"}, {"MaxResults": 0}, {"MaxResults": 100_000}):
        assert ask(cloud, row.operation, {**params, **over}).code == "InvalidParameterValue", (over, row.page)
    whole = call(**params)
    (key,) = [name for name, value in whole.items() if isinstance(value, list)]
    first = call(**params, MaxResults=5)
    assert len(first[key]) == min(5, len(whole[key]))
    assert ("NextToken" in first) == (len(whole[key]) > 5)
    if "NextToken" in first:
        second = call(**params, MaxResults=5, NextToken=first["NextToken"])
        assert (first[key] + second[key])[:6] == whole[key][:6]


JSON_ROWS = (
    (
        "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html",
        ("ssm", "get_parameter", {"Name": DLAMI}),
        (({"Name": None}, "ValidationException"), ({"Name": "/aws/none"}, "ParameterNotFound")),
    ),
    (
        "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html",
        ("ssm", "get_parameters", {"Names": [DLAMI]}),
        (({"Names": None}, "ValidationException"), ({"Names": [f"/n{n}" for n in range(11)]}, "ValidationException")),
    ),
    (
        "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParametersByPath.html",
        ("ssm", "get_parameters_by_path", {"Path": DLAMI.rpartition("/")[0]}),
        (
            ({"Path": None}, "ValidationException"),
            ({"MaxResults": 11}, "ValidationException"),
            ({"NextToken": "nonsense"}, "InvalidNextToken"),
        ),
    ),
    (
        "https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html",
        ("pricing", "get_products", {"ServiceCode": "AmazonEC2"}),
        (
            ({"ServiceCode": None}, "ValidationException"),
            ({"MaxResults": 101}, "ValidationException"),
            ({"NextToken": "nonsense"}, "InvalidNextTokenException"),
        ),
    ),
    (
        "https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html",
        ("sts", "get_caller_identity", {}),
        (),
    ),
)


@pytest.mark.parametrize(("page", "call", "refuses"), JSON_ROWS, ids=[row[1][1] for row in JSON_ROWS])
def test_the_other_services_refuse_what_their_pages_do(
    cloud: Cloud, page: str, call: tuple[str, str, dict[str, Any]], refuses: tuple[tuple[dict[str, Any], str], ...]
) -> None:
    """The same, for what is offered beside EC2; the code for a missing value is the services' common one."""
    service, name, params = call
    unchecked = Config(parameter_validation=False, retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": ACCESS_KEY_ID, "aws_secret_access_key": cloud.key}
    client: Any = boto3.client(service, region_name=REGION, endpoint_url=cloud.endpoint, config=unchecked, **keys)
    request_ids = {getattr(client, name)(**params)["ResponseMetadata"]["RequestId"] for _ in range(2)}
    assert len(request_ids) == 2, page
    for over, code in refuses:
        asked = {key: value for key, value in {**params, **over}.items() if value is not None}
        with pytest.raises(ClientError) as caught:
            getattr(client, name)(**asked)
        assert caught.value.response["Error"]["Code"] == code, (over, page)


@pytest.mark.prove
@pytest.mark.parametrize("row", with_member("Filters"), ids=lambda row: row.operation)
def test_no_filter_is_passed_over(cloud: Cloud, made: Made, row: Row) -> None:
    """Each filter that the operation's page has is carried out, and lets nothing through here, or is refused."""
    assert all((made.fleet, made.snapshot, made.interface, made.key, made.address))
    params = {name: value for name, value in row.takes(made).items() if not name.endswith("Ids")}
    for name in sorted(filters(row.operation)):
        named = f"{name}k" if name == "tag:" else name
        asked = {**params, "Filters": [{"Name": named, "Values": ["nothing-has-this"]}]}
        answer = ask(cloud, row.operation, asked)
        nothing = answer.code is None and answer.root.find(".//item") is None
        assert nothing or answer.code in ("InvalidAction", "InvalidGroupId.Malformed"), (name, answer.code, row.page)
