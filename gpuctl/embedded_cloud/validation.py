"""Whether a request is one that EC2 would look at: by AWS's model of its operation, and by the rules of AWS's pages.

The codes are those of `operations.PAGES` + `errors-overview.html`; where that page leaves a choice, what EC2 has been
seen to answer: https://github.com/boto/boto3/issues/1299 (filters), 2673 (tokens);
https://github.com/aws/aws-sdk-ruby/pull/2575 (MaxResults); https://github.com/cloud-custodian/cloud-custodian/issues/5975
(tags); https://github.com/github-aws-runners/terraform-aws-github-runner/issues/3700 and
https://github.com/runs-on/runs-on/issues/9 (user-data).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.utils import parse_timestamp
from botocore.validate import ParamValidator
from moto.core.exceptions import ServiceException
from moto.core.utils import get_service_model
from moto.ec2.exceptions import DryRunClientError, EC2ClientError

from gpuctl.embedded_cloud import filtering, operations

_COMMON = frozenset({"Action", "Version"})
_IDS = {
    "InstanceId": ("i", "InvalidInstanceID.Malformed"),
    "ImageId": ("ami", "InvalidAMIID.Malformed"),
    "SecurityGroupId": ("sg", "InvalidGroupId.Malformed"),
    "GroupId": ("sg", "InvalidGroupId.Malformed"),
    "SecurityGroupRuleId": ("sgr", "InvalidSecurityGroupRuleId.Malformed"),
    "VpcId": ("vpc", "InvalidVpcID.Malformed"),
    "SubnetId": ("subnet", "InvalidSubnetID.Malformed"),
    "VolumeId": ("vol", "InvalidVolumeID.Malformed"),
    "SnapshotId": ("snap", "InvalidSnapshotID.Malformed"),
    "NetworkInterfaceId": ("eni", "InvalidNetworkInterfaceId.Malformed"),
    "LaunchTemplateId": ("lt", "InvalidLaunchTemplateId.Malformed"),
    "SpotInstanceRequestId": ("sir", "InvalidSpotInstanceRequestID.Malformed"),
    "RouteTableId": ("rtb", "InvalidRouteTableId.Malformed"),
    "InternetGatewayId": ("igw", "InvalidInternetGatewayId.Malformed"),
}
_ID_END = r"-([0-9a-f]{17}|[0-9a-f]{8})"
_SPOT_REQUEST_ID = r"sir-[0-9a-z]{8}"
_LATER = frozenset({"InstanceType", "SpotInstanceType"})
"""Enumerations whose values the operations check themselves, each with a code of its own."""
_LONGEST_KEY, _LONGEST_VALUE, _MOST_VALUES = 128, 256, 200
_LONGEST_USER_DATA = 16384
_WRONG_TOKEN = {"ssm": "InvalidNextToken", "pricing": "InvalidNextTokenException"}
_TEMPLATE_NAME = re.compile(r"[a-zA-Z0-9().\-/_]{3,128}")
_GROUP_TEXT = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")


@dataclass(frozen=True)
class Leaf:
    """One value of a request: its key in the form, the model's name and shape for it, and the structure it is in."""

    key: str
    name: str
    shape: Any
    value: str
    owner: str


def check(operation: str, form: Mapping[str, str]) -> None:
    """Raises EC2ClientError where EC2 would refuse the request unread, or because it was only a DryRun."""
    leaves = list(_leaves(operations.model(operation).input_shape, form))
    known = {leaf.key for leaf in leaves}
    for key in form:
        if key not in known and key not in _COMMON:
            raise EC2ClientError("UnknownParameter", f"The parameter {key.partition('.')[0]} is not recognized")
    for leaf in leaves:
        _check_value(leaf)
        _check_id(leaf)
        _check_text(leaf)
    _check_filters(operation, form)
    if "MaxResults" in form:
        _check_max_results(operation, form)
    if form.get("DryRun", "").lower() == "true":
        raise DryRunClientError


def check_json(service: str, operation: str, params: Mapping[str, Any]) -> None:
    """The same for SSM and the price list. Neither gives a second page here, so that every token is a wrong one."""
    shape: Any = get_service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(params, shape)
    if report.has_errors():
        raise ServiceException("ValidationException", report.generate_report())
    for name, value in params.items():
        most = shape.members[name].metadata.get("max")
        if most is not None and (value if isinstance(value, int) else len(value)) > most:
            raise ServiceException(
                "ValidationException", f"Value at '{name}' failed to satisfy constraint: at most {most}"
            )
    if params.get("NextToken"):
        raise ServiceException(_WRONG_TOKEN[service], "The specified token is not valid.")


def _leaves(top: Any, form: Mapping[str, str]) -> Iterator[Leaf]:
    """The request's values that the model knows. Raises EC2ClientError where one that it wants is not there."""
    given = {".".join(parts[: n + 1]) for parts in (key.split(".") for key in form) for n in range(len(parts))}

    def below(shape: Any, key: str, name: str, owner: str) -> Iterator[Leaf]:
        if shape.type_name == "structure":
            for member, inner in shape.members.items():
                inner_key = f"{key}.{_query_name(member, inner)}".lstrip(".")
                if inner_key in given:
                    yield from below(inner, inner_key, member, shape.name)
                elif member in shape.required_members:
                    raise EC2ClientError("MissingParameter", f"The request must contain the parameter {inner_key}")
        elif shape.type_name == "list":
            for index in range(1, len(form) + 1):
                if f"{key}.{index}" in given:
                    yield from below(shape.member, f"{key}.{index}", name.removesuffix("s"), owner)
        elif key in form:
            yield Leaf(key, name, shape, form[key], owner)

    yield from below(top, "", "", "")


def _query_name(member: str, shape: Any) -> str:
    """What a member is called in a request: https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html."""
    told = shape.serialization
    name = str(told.get("queryName") or told.get("name") or member)
    return name[0].upper() + name[1:]


def _invalid(leaf: Leaf, why: str) -> EC2ClientError:
    name = leaf.name[0].lower() + leaf.name[1:]
    return EC2ClientError("InvalidParameterValue", f"Value ( {leaf.value} ) for parameter {name} is invalid. {why}")


def _check_value(leaf: Leaf) -> None:
    kind, enum = leaf.shape.type_name, getattr(leaf.shape, "enum", None)
    try:
        if kind in ("integer", "long"):
            int(leaf.value)
        elif kind in ("float", "double"):
            float(leaf.value)
        elif kind == "timestamp":
            parse_timestamp(leaf.value)
    except ValueError:
        raise _invalid(leaf, f"It is not of type {kind}.") from None
    if kind == "boolean" and leaf.value.lower() not in ("true", "false"):
        raise _invalid(leaf, "It is neither true nor false.")
    if enum and leaf.shape.name not in _LATER and leaf.value not in enum:
        raise _invalid(leaf, f"Valid values are: {', '.join(enum)}")


def _check_id(leaf: Leaf) -> None:
    if leaf.shape.name == "TaggableResourceId":
        if not re.fullmatch(rf"fleet-[0-9a-f-]{{36}}|{_SPOT_REQUEST_ID}|[a-z]+{_ID_END}", leaf.value):
            raise EC2ClientError("InvalidID", f"The ID '{leaf.value}' is not valid")
        return
    by_name = leaf.name if leaf.shape.name.startswith(("String", "InstanceIdFor", "VolumeIdWith")) else ""
    prefix, code = _IDS.get(leaf.shape.name) or _IDS.get(by_name) or ("", "")
    if not prefix or leaf.value.startswith("resolve:ssm:"):
        return
    pattern = _SPOT_REQUEST_ID if prefix == "sir" else prefix + _ID_END
    if not re.fullmatch(pattern, leaf.value):
        raise EC2ClientError(code, f'Invalid id: "{leaf.value}" (expecting "{prefix}-...")')


def _check_text(leaf: Leaf) -> None:
    """Tags and names."""
    if leaf.owner == "Tag" and leaf.name == "Key":
        if leaf.value.lower().startswith("aws:"):
            raise _invalid(leaf, "Tag keys starting with 'aws:' are reserved for internal use")
        if not 1 <= len(leaf.value) <= _LONGEST_KEY:
            raise _invalid(leaf, f"A tag's key has 1 to {_LONGEST_KEY} characters.")
    elif leaf.owner == "Tag" and len(leaf.value) > _LONGEST_VALUE:
        raise _invalid(leaf, f"A tag's value has up to {_LONGEST_VALUE} characters.")
    elif leaf.name == "UserData":
        _check_user_data(leaf)
    elif leaf.name == "LaunchTemplateName" and leaf.owner == "CreateLaunchTemplateRequest":
        if not _TEMPLATE_NAME.fullmatch(leaf.value):
            raise EC2ClientError(
                "InvalidLaunchTemplateName.MalformedException",
                "A launch template name must be between 3 and 128 characters, and may contain letters, numbers, and "
                "the following characters: - ( ) . / _.",
            )
    elif leaf.owner == "CreateSecurityGroupRequest" and leaf.name in ("GroupName", "Description"):
        if not _GROUP_TEXT.fullmatch(leaf.value) or (leaf.name == "GroupName" and leaf.value.startswith("sg-")):
            raise _invalid(leaf, "Character sets beyond ASCII are not supported, nor a name that begins with sg-.")
        if leaf.name == "GroupName" and leaf.value == "default":
            raise EC2ClientError("InvalidGroup.Reserved", "The security group 'default' is reserved")


def _check_user_data(leaf: Leaf) -> None:
    """What is too long is refused with one code in a template and with another for an instance."""
    try:
        raw = base64.b64decode(leaf.value, validate=True)
    except ValueError:
        raise EC2ClientError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(raw) > _LONGEST_USER_DATA:
        code = "InvalidParameterValue" if leaf.owner == "RunInstancesRequest" else "InvalidUserData.Malformed"
        raise EC2ClientError(code, f"User data is limited to {_LONGEST_USER_DATA} bytes")


def _check_filters(operation: str, form: Mapping[str, str]) -> None:
    known = operations.filters(operation)
    values = 0
    for key, value in form.items():
        parts = key.split(".")
        if parts[0] != "Filter" or len(parts) < 3:
            continue
        values += parts[2] == "Value"
        if parts[2] == "Name" and value not in known and not ("tag:" in known and value.startswith("tag:")):
            raise EC2ClientError("InvalidParameterValue", f"The filter '{value}' is invalid")
        if parts[2] == "Name" and not filtering.is_carried_out(operation, value):
            raise NotImplementedError(f"The embedded cloud does not carry out the filter '{value}' of {operation}")
        if f"Filter.{parts[1]}.Name" not in form:
            raise EC2ClientError("InvalidParameterValue", "The filter 'null' is invalid")
    if values > _MOST_VALUES:
        raise EC2ClientError(
            "FilterLimitExceeded",
            f"The maximum number of filter values specified on a single call is {_MOST_VALUES}",
        )


def _check_max_results(operation: str, form: Mapping[str, str]) -> None:
    value = int(form["MaxResults"])
    least, most = operations.page_bounds(operation)
    if not least <= value <= most:
        bound = f"greater than {least}" if value < least else f"less than {most}"
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ( {value} ) for parameter maxResults is invalid. Expecting a value {bound}.",
        )
    ids = operations.ids_without_pages(operation)
    if ids and any(key.startswith(f"{ids.removesuffix('s')}.") for key in form):
        name = ids[0].lower() + ids[1:].removesuffix("Ids")
        raise EC2ClientError(
            "InvalidParameterCombination",
            f"The parameter {name}sSet cannot be used with the parameter maxResults",
        )
