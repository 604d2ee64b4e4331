"""AWS's errors, classified once by what they let the caller do, and told in one line.

Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html (EC2) and
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonErrors.html (all services).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto

from gpuctl.aws.parallel import NotReady
from gpuctl.core.errors import CloudError, CloudGone, GpuctlError, NoAnswer, NoCapacity, NotAllowed
from gpuctl.core.text import safe, shorten
from gpuctl.web import is_loopback


class ErrorClass(Enum):
    """What an error lets the caller do."""

    ANOTHER_OFFER = auto()
    ANOTHER_REGION_OR_USER = auto()
    WAIT = auto()
    GONE = auto()
    NOT_ALLOWED = auto()
    ALREADY = auto()
    OTHER = auto()


NO_SPOT_ROLE = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"

_TABLE: dict[ErrorClass, frozenset[str]] = {
    ErrorClass.ANOTHER_OFFER: frozenset(
        {
            "InsufficientCapacity",
            "InsufficientFreeAddressesInSubnet",
            "InsufficientHostCapacity",
            "InsufficientInstanceCapacity",
            "InsufficientReservedInstanceCapacity",
            "InvalidFleetConfiguration",  # a fleet's pool: "instance type not supported in the Availability Zone"
            "SpotInstanceTermination",  # an instance's StateReason
            "SpotMaxPriceTooLow",
            "UnfulfillableCapacity",
            "Unsupported",
            "VolumeTypeNotAvailableInZone",
        }
    ),
    ErrorClass.ANOTHER_REGION_OR_USER: frozenset(
        {
            "AddressLimitExceeded",
            "InstanceLimitExceeded",
            "MaxIOPSLimitExceeded",
            "MaxFleetCountExceeded",
            "MaxSpotFleetRequestCountExceeded",
            "MaxSpotInstanceCountExceeded",
            "NetworkInterfaceLimitExceeded",
            "PendingVerification",
            "ResourceCountExceeded",
            "ResourceLimitExceeded",
            "SecurityGroupLimitExceeded",
            "VcpuLimitExceeded",
            "VolumeLimitExceeded",
        }
    ),
    ErrorClass.WAIT: frozenset(
        {
            "ConcurrentTagAccess",
            "DependencyViolation",
            "EC2ThrottledException",
            "IncorrectInstanceState",
            "IncorrectState",
            "InternalError",
            "InternalFailure",
            "RequestLimitExceeded",
            "RequestThrottled",
            "RequestThrottledException",
            "ServerInternal",
            "ServiceUnavailable",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
            "Unavailable",
            "VolumeInUse",
        }
    ),
    ErrorClass.GONE: frozenset({"InvalidAMIID.Unavailable", "ParameterNotFound"}),
    ErrorClass.NOT_ALLOWED: frozenset(
        {
            "AccessDenied",
            "AccessDeniedException",
            "Blocked",
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorized",
            "OperationNotPermitted",
            "OptInRequired",
            "RequestExpired",
            "SignatureDoesNotMatch",
            "UnauthorizedOperation",
            "UnrecognizedClientException",
        }
    ),
    ErrorClass.ALREADY: frozenset({"EntityAlreadyExists"}),
}
_MEANS = {code: means for means, codes in _TABLE.items() for code in codes}
_ENDINGS = (
    (r"\.(NotFound|NotFoundException|Unknown)$", ErrorClass.GONE),
    (r"\.(Duplicate|AlreadyExistsException|AlreadyExists)$", ErrorClass.ALREADY),
    (r"\.InUse$", ErrorClass.WAIT),
    (r"^5\d\d$", ErrorClass.WAIT),  # what botocore makes of a page in the place of an answer
    (r"^AuthFailure(\.|$)", ErrorClass.NOT_ALLOWED),
)

QUOTA_STEP = "ask AWS for a larger quota (docs/aws.md, Quotas), or try another --region"
CAPACITY_STEP = "try another --gpu, --region or --max-price, --on-demand fallback, or later"
_SIGN_IN = "sign in with `aws sso login`, or give credentials with `aws configure` or AWS_ACCESS_KEY_ID"
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException"})
_BAD_KEY = frozenset(
    {
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_FAILED = frozenset({"InternalError", "InternalFailure", "ServerInternal", "ServiceUnavailable", "Unavailable"})
"""AWS failed in the middle: what was asked may have been done."""
_BAD_DISK = "Client.InternalError"
"""An instance that ends at its launch with this StateReason could not use its disk, most often for a customer's KMS key
that the caller or the spot role may not use (https://repost.aws/knowledge-center/encrypted-volumes-stops-immediately).
EC2 says Client.InvalidKMSKey.InvalidState of it, too."""
_NOT_AN_ANSWER = "is there a proxy or a sign-in page in between? Try again in a moment"
_MESSAGE_WIDTH = 400
_CODE_WIDTH = 80
_MAKE_SPOT_ROLE = "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"


def classify(code: str) -> ErrorClass:
    """What an error code lets the caller do. An instance's StateReason (`Server.…`, `Client.…`) reads the same."""
    code = re.sub(r"^(Server|Client)\.", "", code)
    if code in _MEANS:
        return _MEANS[code]
    return next((means for pattern, means in _ENDINGS if re.search(pattern, code)), ErrorClass.OTHER)


def code_of(error: BaseException) -> str:
    """The code of an error that AWS answered with (a ClientError), else an empty text."""
    response = getattr(error, "response", None)
    details = response.get("Error", {}) if isinstance(response, Mapping) else {}
    return str(details.get("Code", ""))


def is_free_plan(message: str) -> bool:
    """Whether AWS refuses an instance type to an account on its Free plan: the code says InvalidParameterCombination.

    "The specified instance type is not eligible for Free Tier." (github.com/splunk/attack_range/issues/1302)
    """
    return "free tier" in message.lower()


def explain(code: str, message: str, *, doing: str, permission: str = "") -> GpuctlError:
    """An error that AWS answered with, as one of gpuctl's. `permission` is the operation that was called."""
    code = shorten(safe(code), _CODE_WIDTH)
    text = _tidy(message) or code or "no reason given"
    means = classify(code)
    account = _account_refused(code, text, doing=doing)
    if account is not None:
        return account
    if means is ErrorClass.NOT_ALLOWED:
        return _not_allowed(code, text, doing=doing, permission=permission)
    said = f"could not {doing}: {text} ({code})"
    if means is ErrorClass.ANOTHER_OFFER:
        return NoCapacity(said, CAPACITY_STEP)
    if means is ErrorClass.ANOTHER_REGION_OR_USER:
        return NoCapacity(said, QUOTA_STEP)
    if code.isdigit() or code in ("", "Unknown"):
        return NoAnswer(
            f"could not {doing}: the answer did not come from AWS ({code or 'no code'}: {text})", _NOT_AN_ANSWER
        )
    if means is ErrorClass.WAIT:
        return (NoAnswer if code in _FAILED else CloudError)(said, "try again in a moment")
    return CloudError(said)


def _account_refused(code: str, text: str, *, doing: str) -> GpuctlError | None:
    """What the account itself does not have, though every permission is there; None for all else."""
    if code == NO_SPOT_ROLE:
        return NotAllowed(
            f"could not {doing}: this account has never used spot, and you may not create the role that spot needs",
            f"have an administrator run `{_MAKE_SPOT_ROLE}` once, or use --on-demand only",
        )
    if code == _BAD_DISK or "KMSKey" in code:
        return NotAllowed(
            f"could not {doing}: most likely the KMS key for its disk cannot be used ({text})",
            "check that the region's key for EBS encryption is enabled, and that you and the role "
            "AWSServiceRoleForEC2Spot may use it (docs/aws.md), or make aws/ebs that key",
        )
    if is_free_plan(text):
        return NotAllowed(
            f"could not {doing}: the account is on AWS's Free plan, which has no such instance type ({code})",
            "upgrade the account to the paid plan (AWS console, Billing and Cost Management)",
        )
    if code == "PendingVerification":
        step = "AWS sends an email when it has checked the account, usually within hours; or try another --region"
        return NoCapacity(f"could not {doing}: {text} ({code})", step)
    return None


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn whatever boto3 raises into one of gpuctl's errors. `doing` completes "could not …"."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        message = str(error.response.get("Error", {}).get("Message", ""))
        raise explain(code_of(error), message, doing=doing, permission=error.operation_name) from error
    except BotoCoreError as error:
        raise _without_answer(error, doing) from error
    except (GpuctlError, NotReady):
        raise
    except Exception as error:  # what a parser, a socket or an answer without its parts raises: the one border
        raise NoAnswer(f"could not {doing}: that is not an answer from AWS ({_kind(error)})", _NOT_AN_ANSWER) from error


def _kind(error: Exception) -> str:
    return f"{type(error).__name__}: {_tidy(str(error))[:80]}" if str(error) else type(error).__name__


def _not_allowed(code: str, text: str, *, doing: str, permission: str) -> NotAllowed:
    if code in _EXPIRED:
        return NotAllowed(f"could not {doing}: the AWS credentials have expired", "sign in again, e.g. `aws sso login`")
    if code == "RequestExpired":
        return NotAllowed(f"could not {doing}: {text}", "set this machine's clock")
    if code in _BAD_KEY:
        step = (
            "check them with `aws sts get-caller-identity --region us-east-1`; if that works, the region is not "
            "enabled for the account: try another --region, or enable it (AWS console, Account, AWS Regions)"
        )
        return NotAllowed(f"could not {doing}: AWS does not accept the credentials ({code})", step)
    if code in ("Blocked", "OptInRequired"):
        return NotAllowed(f"could not {doing}: {text} ({code})", "see https://console.aws.amazon.com/support")
    named = re.search(r"perform: ([\w-]+:\w+)", text)
    needed = named[1] if named else permission
    step = f"ask an administrator for the permission {needed}" if needed else "ask an administrator for the permission"
    return NotAllowed(f"not allowed to {doing}: {text} ({code})", step)


def _without_answer(error: Exception, doing: str) -> GpuctlError:
    from botocore import exceptions as bc

    sign_in = (
        bc.NoCredentialsError,
        bc.NoAuthTokenError,
        bc.PartialCredentialsError,
        bc.CredentialRetrievalError,
        bc.TokenRetrievalError,
        bc.SSOError,
    )
    text = _tidy(str(error))
    if isinstance(error, bc.NoCredentialsError):
        return NotAllowed("there are no AWS credentials", f"{_SIGN_IN}; or try --cloud embedded, which needs none")
    if isinstance(error, sign_in) or type(error).__name__.startswith("Login"):
        return NotAllowed(f"the AWS credentials cannot be used: {text}", _SIGN_IN)
    if isinstance(error, bc.ProfileNotFound):
        return NotAllowed(text, "check AWS_PROFILE and `aws configure list-profiles`")
    if isinstance(error, (bc.ConfigParseError, bc.ConfigNotFound, bc.InvalidConfigError)):
        return NotAllowed(f"AWS's configuration cannot be read: {text}", "check ~/.aws/config")
    if isinstance(error, (bc.HTTPClientError, bc.ConnectionError)):
        return _no_answer(error, text, doing)
    return CloudError(f"could not {doing}: {text}")


def _no_answer(error: Exception, text: str, doing: str) -> NoAnswer:
    from botocore.exceptions import EndpointConnectionError

    url = getattr(error, "kwargs", {}).get("endpoint_url")
    if isinstance(error, EndpointConnectionError) and isinstance(url, str) and is_loopback(url):
        step = "`gpuctl cloud start` starts the embedded cloud again and says what was lost"
        return CloudGone(f"could not {doing}: nothing answers at {safe(url)} any more", step)
    return NoAnswer(f"could not {doing}: no answer from AWS: {text}", "check the network connection, then try again")


def _tidy(message: str) -> str:
    """One line, without the ciphertext that some refusals carry (`aws sts decode-authorization-message` reads it)."""
    message = message.split("Encoded authorization failure message")[0]
    return shorten(safe(" ".join(message.split())).rstrip(" ."), _MESSAGE_WIDTH)
