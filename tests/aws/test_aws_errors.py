"""AWS's errors: what each lets the caller do, and how each is told."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.aws.account import Account
from gpuctl.aws.errors import NO_SPOT_ROLE, ErrorClass, aws_errors, classify, explain
from gpuctl.core.errors import CloudError, GpuctlError, NoAnswer, NoCapacity, NotAllowed
from gpuctl.core.profile import Profile


@pytest.mark.parametrize(
    ("code", "means"),
    [
        ("InsufficientInstanceCapacity", ErrorClass.ANOTHER_OFFER),
        ("Server.InsufficientInstanceCapacity", ErrorClass.ANOTHER_OFFER),
        ("Server.SpotInstanceTermination", ErrorClass.ANOTHER_OFFER),
        ("UnfulfillableCapacity", ErrorClass.ANOTHER_OFFER),
        ("SpotMaxPriceTooLow", ErrorClass.ANOTHER_OFFER),
        ("InsufficientFreeAddressesInSubnet", ErrorClass.ANOTHER_OFFER),
        ("Unsupported", ErrorClass.ANOTHER_OFFER),
        ("MaxSpotInstanceCountExceeded", ErrorClass.ANOTHER_REGION_OR_USER),
        ("VcpuLimitExceeded", ErrorClass.ANOTHER_REGION_OR_USER),
        ("Client.VolumeLimitExceeded", ErrorClass.ANOTHER_REGION_OR_USER),
        ("PendingVerification", ErrorClass.ANOTHER_REGION_OR_USER),
        ("RequestLimitExceeded", ErrorClass.WAIT),
        ("Throttling", ErrorClass.WAIT),
        ("DependencyViolation", ErrorClass.WAIT),
        ("InvalidGroup.InUse", ErrorClass.WAIT),
        ("VolumeInUse", ErrorClass.WAIT),
        ("InvalidInstanceID.NotFound", ErrorClass.GONE),
        ("InvalidGroup.NotFound", ErrorClass.GONE),
        ("InvalidVolume.NotFound", ErrorClass.GONE),
        ("InvalidLaunchTemplateId.NotFound", ErrorClass.GONE),
        ("InvalidLaunchTemplateName.NotFoundException", ErrorClass.GONE),
        ("InvalidNetworkInterfaceID.NotFound", ErrorClass.GONE),
        ("ParameterNotFound", ErrorClass.GONE),
        ("AuthFailure", ErrorClass.NOT_ALLOWED),
        (NO_SPOT_ROLE, ErrorClass.NOT_ALLOWED),
        ("UnauthorizedOperation", ErrorClass.NOT_ALLOWED),
        ("AccessDeniedException", ErrorClass.NOT_ALLOWED),
        ("ExpiredToken", ErrorClass.NOT_ALLOWED),
        ("InvalidClientTokenId", ErrorClass.NOT_ALLOWED),
        ("OptInRequired", ErrorClass.NOT_ALLOWED),
        ("InvalidGroup.Duplicate", ErrorClass.ALREADY),
        ("InvalidPermission.Duplicate", ErrorClass.ALREADY),
        ("InvalidLaunchTemplateName.AlreadyExistsException", ErrorClass.ALREADY),
        ("InvalidParameterValue", ErrorClass.OTHER),
        ("IdempotentParameterMismatch", ErrorClass.OTHER),
        ("AuthFailureX", ErrorClass.OTHER),
        ("", ErrorClass.OTHER),
    ],
)
def test_each_code_means_what_it_lets_the_caller_do(code: str, means: ErrorClass) -> None:
    """One table, and nobody else looks at a code."""
    assert classify(code) is means


@given(st.text(), st.text())
def test_any_answer_is_told_in_one_line(code: str, message: str) -> None:
    """Whatever AWS, or something in between, answers."""
    error = explain(code, message, doing="create the fleet")
    assert isinstance(error, GpuctlError)
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 1000


def test_a_refusal_names_the_permission_and_leaves_out_the_ciphertext() -> None:
    """What an administrator must grant is what a person needs; kilobytes of ciphertext are not."""
    message = (
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/bob is not authorized "
        "to perform: ec2:CreateFleet on resource: arn:aws:ec2:us-east-1:123456789012:fleet/* because no "
        "identity-based policy allows the ec2:CreateFleet action. Encoded authorization failure message: " + "x" * 900
    )
    error = explain("UnauthorizedOperation", message, doing="create the fleet", permission="CreateFleet")
    assert isinstance(error, NotAllowed)
    assert error.exit_code == 5
    assert "xxxx" not in str(error)
    assert error.next_step == "ask an administrator for the permission ec2:CreateFleet"
    plain = explain("AccessDenied", "no", doing="look", permission="DescribeImages")
    assert plain.next_step == "ask an administrator for the permission DescribeImages"


def test_an_account_that_never_used_spot_is_told_how_to_begin() -> None:
    """The message names the one command, and the way around it."""
    error = explain(NO_SPOT_ROLE, "The provided credentials do not have permission to create …", doing="make a fleet")
    assert isinstance(error, NotAllowed)
    assert "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com" in str(error)
    assert "--on-demand only" in str(error)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("ExpiredToken", NotAllowed, "expired.*aws sso login"),
        ("InvalidClientTokenId", NotAllowed, "does not accept the credentials.*get-caller-identity"),
        ("AuthFailure", NotAllowed, "region is not enabled"),
        ("PendingVerification", NoCapacity, "AWS sends an email"),
        ("RequestExpired", NotAllowed, "clock"),
        ("Blocked", NotAllowed, "support"),
        ("VcpuLimitExceeded", NoCapacity, "quota"),
        ("InsufficientInstanceCapacity", NoCapacity, "--on-demand fallback"),
        ("RequestLimitExceeded", CloudError, "try again"),
        ("InvalidGroup.NotFound", CloudError, "InvalidGroup"),
        ("InvalidParameterValue", CloudError, "InvalidParameterValue"),
    ],
)
def test_an_error_over_the_wire_is_told_with_its_next_step(
    account: Account, cloud, code: str, kind: type[GpuctlError], said: str
) -> None:
    """From the API's answer to the line and the exit code."""
    cloud.fault("DescribeVpcs", code=code, message="as AWS says", times=-1)
    with pytest.raises(kind, match=said), aws_errors("look around"):
        account.client("ec2").describe_vpcs()


def test_no_credentials_at_all_are_told_before_anything_is_asked(no_credentials: Profile, cloud) -> None:
    """Exit code 5, with how to get some and what needs none; AWS hears nothing."""
    with pytest.raises(NotAllowed, match=r"no AWS credentials.*aws configure.*--cloud embedded"):
        Account(no_credentials).owner()
    assert cloud.calls() == []


def test_half_of_the_credentials_is_told(no_credentials: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key id without its secret."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    with pytest.raises(NotAllowed, match="cannot be used"):
        Account(no_credentials).owner()


def test_a_profile_that_is_not_there_is_told(no_credentials: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_PROFILE is named, so that it can be set right."""
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(NotAllowed, match=r"work.*AWS_PROFILE"):
        Account(no_credentials).owner()


def test_another_clouds_profile_does_not_matter_where_credentials_are_brought(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded cloud works whatever AWS_PROFILE says."""
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert Account(profile).owner().endswith(":user/gpuctl")


@pytest.mark.parametrize(
    "config",
    [
        "[default]\nsso_session = work\nsso_account_id = 123456789012\nsso_role_name = Admin\n"
        "[sso-session work]\nsso_start_url = https://example.invalid/start\nsso_region = us-east-1\n",
        "[default]\nthis is not a configuration\n[[[",
        "[default]\ncredential_process = /nowhere/to/be/found\n",
    ],
    ids=["sso", "broken", "process"],
)
def test_a_configuration_that_gives_no_credentials_is_told(
    no_credentials: Profile, own_world: Path, config: str
) -> None:
    """No sign-in yet, a broken file, a helper that is not there: each is one line and exit code 5."""
    (own_world / ".aws").mkdir()
    (own_world / ".aws/config").write_text(config)
    with pytest.raises(NotAllowed) as error:
        Account(no_credentials).owner()
    assert "\n" not in str(error.value)
    assert error.value.next_step


def test_a_server_that_is_not_there_is_no_answer(profile: Profile) -> None:
    """It takes seconds, not minutes, and the next step is the embedded cloud where that would be: on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = replace(profile, endpoint_url=f"http://127.0.0.1:{port}")
    with pytest.raises(CloudError, match=rf"could not ask AWS who you are: nothing answers at .*:{port}.*cloud start"):
        Account(nowhere).owner()


def test_a_lost_answer_is_asked_for_again(account: Account, cloud) -> None:
    """A connection that closes after the call was made costs one more call."""
    cloud.fault("DescribeVpcs", drop=True)
    with aws_errors("look around"):
        account.client("ec2").describe_vpcs()
    assert cloud.calls().count("DescribeVpcs") == 2


@pytest.mark.parametrize("body", ["page", "xhtml", "cut", "short", "empty"])
def test_an_answer_that_is_none_is_asked_for_again(account: Account, cloud, body: str) -> None:
    """Two of them cost two more calls; where they do not end, it is one line and no traceback."""
    cloud.fault("DescribeVpcs", body=body, times=2)
    with aws_errors("look around"):
        assert account.client("ec2").describe_vpcs()["Vpcs"]
    cloud.clear()
    cloud.fault("DescribeVpcs", body=body, times=-1)
    with pytest.raises(NoAnswer, match="could not look around") as error, aws_errors("look around"):
        account.client("ec2").describe_vpcs()
    assert "\n" not in str(error.value)
    assert 3 <= cloud.calls().count("DescribeVpcs") <= 9


@pytest.mark.parametrize("service", ["ssm", "sts"])
def test_other_services_pages_are_no_answers_either(account: Account, cloud, service: str) -> None:
    """JSON and XML alike."""
    operation = {"ssm": "GetParameter", "sts": "GetCallerIdentity"}[service]
    cloud.fault(operation, body="xhtml", times=-1)
    with pytest.raises(NoAnswer, match="proxy"), aws_errors("ask"):
        client = account.client(service)  # type: ignore[call-overload]
        client.get_parameter(Name="x") if service == "ssm" else client.get_caller_identity()


def test_a_proxys_502_is_told_as_what_it_is(account: Account, cloud) -> None:
    """Neither an AWS error without a name nor a traceback."""
    cloud.fault("DescribeVpcs", body="page", status=502, times=-1)
    with pytest.raises(NoAnswer, match="proxy"), aws_errors("look around"):
        account.client("ec2").describe_vpcs()


def test_an_unreachable_network_is_the_next_step_elsewhere() -> None:
    """Away from this machine it is the network that a person should look at."""
    from botocore.exceptions import EndpointConnectionError

    with pytest.raises(CloudError, match=r"no answer from AWS.*network"), aws_errors("list the instances"):
        raise EndpointConnectionError(endpoint_url="https://ec2.us-east-1.amazonaws.com/")
