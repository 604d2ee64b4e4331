"""An AWS account in one region: who asks, where, and the clients to ask with."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, overload

from gpuctl import __version__
from gpuctl.aws.answers import expect_answers
from gpuctl.aws.errors import aws_errors
from gpuctl.core.errors import NotAllowed, UsageError
from gpuctl.core.profile import Profile
from gpuctl.web import is_loopback

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient

LAST_RESORT_REGION = "us-east-1"
ATTEMPTS = 3
"""A call and two retries: botocore retries an InsufficientInstanceCapacity too, which no retry cures soon."""
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
"""CreateFleet answers when its instances are there."""
_TAG_LIMIT = 256


class Account:
    """Where calls go and as whom. Nothing is read or asked before it is needed; safe to share between threads."""

    def __init__(self, profile: Profile, region: str | None = None) -> None:
        self.profile = profile
        self._asked_region = region
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._made_session: Session | None = None
        self._found_region: tuple[str, str] | None = None
        # The one lock: `cached_property` has its own before Python 3.12, and two are taken in two orders.
        self._lock = threading.RLock()

    def in_region(self, region: str) -> Account:
        """The same account in a region, itself where it is there already."""
        return self if region == self.region else Account(self.profile, region)

    @property
    def region(self) -> str:
        """The region: `--region`, else AWS's own variables and configuration, else the cloud's default."""
        return self._region_and_source[0]

    @property
    def region_source(self) -> str:
        """Where the region comes from: `--region`, a variable's name, `~/.aws/config` or `default`."""
        return self._region_and_source[1]

    @overload
    def client(self, service: Literal["ec2"]) -> EC2Client: ...
    @overload
    def client(self, service: Literal["ssm"]) -> SSMClient: ...
    @overload
    def client(self, service: Literal["sts"]) -> STSClient: ...
    @overload
    def client(self, service: Literal["pricing"], *, region: str) -> Any: ...
    def client(self, service: str, *, region: str | None = None) -> Any:
        """The service's client. Raises NotAllowed without credentials, UsageError for a region that is none."""
        with self._lock:
            if (service, region) not in self._clients:
                self._clients[service, region] = self._new_client(service, region)
            return self._clients[service, region]

    def owner(self) -> str:
        """Who asks, as a tag's value that stays the same from one day to the next. Raises NotAllowed."""
        with aws_errors("ask AWS who you are"):
            return owner_of(self.client("sts").get_caller_identity()["Arn"])

    @property
    def _session(self) -> Session:
        with self._lock:
            if self._made_session is None:
                self._made_session = self._new_session()
            return self._made_session

    def _new_session(self) -> Session:
        import boto3
        from botocore.session import get_session

        fixed = self.profile.access_key_id is not None
        with aws_errors("read AWS's configuration"):
            # A cloud that brings its credentials must not stumble over an AWS_PROFILE meant for another.
            core = get_session({"profile": (None, None, None, None)} if fixed else None)
            session = boto3.Session(
                botocore_session=core,
                aws_access_key_id=self.profile.access_key_id,
                aws_secret_access_key=self.profile.secret_access_key,
                region_name=self._asked_region,
            )
            expect_answers(session, key=self.profile.cloud_key)
            return session

    @property
    def _region_and_source(self) -> tuple[str, str]:
        with self._lock:
            if self._found_region is None:
                self._found_region = self._find_region()
            return self._found_region

    def _find_region(self) -> tuple[str, str]:
        """The variables first: botocore knows AWS_DEFAULT_REGION, and not AWS_REGION, which AWS's other tools read."""
        asked = [(self._asked_region, "--region")]
        asked += [(os.environ.get(name), name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")]
        for region, source in asked:
            if region:
                return region, source
        with aws_errors("read AWS's configuration"):
            configured = self._session.region_name
        if configured:
            return configured, os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
        return self.profile.default_region or LAST_RESORT_REGION, "default"

    def _new_client(self, service: str, region: str | None) -> Any:
        from botocore.config import Config

        session = self._session
        _require_credentials(session)
        self._check_region(session)
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            user_agent_extra=f"gpuctl/{__version__}",
            max_pool_connections=20,
            proxies={} if is_loopback(self.profile.endpoint_url) else None,
        )
        with aws_errors(f"reach AWS's {service}"):
            return session.client(
                service,  # type: ignore[call-overload]  # a name that the overloads above allow
                region_name=region or self.region,
                endpoint_url=self.profile.endpoint_url,
                config=config,
            )

    def _check_region(self, session: Session) -> None:
        known = [
            name
            for partition in session.get_available_partitions()
            for name in session.get_available_regions("ec2", partition_name=partition)
        ]
        if self.region in known:
            return
        near = get_close_matches(self.region.lower(), known, n=3, cutoff=0.6)
        hint = f"similar: {', '.join(near)}" if near else f"for example {LAST_RESORT_REGION}, eu-west-1, us-west-2"
        raise UsageError(f"there is no AWS region {self.region!r} (from {self.region_source})", hint)


def _require_credentials(session: Session) -> None:
    """Raises NotAllowed where boto3's chain ends without credentials, or a program that it asks for them fails."""
    from botocore.exceptions import NoCredentialsError

    with aws_errors("read the AWS credentials"):
        try:
            found = session.get_credentials()
        except (OSError, ValueError) as error:  # a `credential_process` that is not there, or answers with no JSON
            raise NotAllowed(f"the AWS credentials cannot be read: {error}", "check ~/.aws/config") from error
        if found is None:
            raise NoCredentialsError


def owner_of(arn: str) -> str:
    """A caller's ARN as a tag's value: `123456789012:user/alice`, `123456789012:role/Admin`.

    The session's name is dropped from an assumed role, where programs make it up anew each time; but from IAM Identity
    Center's roles, which whole teams share and where it is the person's own name.
    """
    _, _, _, _, account, who = arn.split(":", 5)
    kind, _, rest = who.partition("/")
    if kind == "assumed-role":
        role, _, session = rest.partition("/")
        who = f"role/{role}/{session}" if role.startswith("AWSReservedSSO_") else f"role/{role}"
    owner = re.sub(r"[^\w +\-=.:/@]", "_", f"{account}:{who}", flags=re.ASCII)
    if len(owner) <= _TAG_LIMIT:
        return owner
    digest = hashlib.sha256(owner.encode()).hexdigest()[:16]
    return f"{owner[: _TAG_LIMIT - 17]}-{digest}"
