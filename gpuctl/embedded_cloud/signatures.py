"""Who signed an AWS request: its signature, version 4, made again with the cloud's key.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from werkzeug.wrappers import Request

from gpuctl.core.cloud_key import ACCESS_KEY_ID

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<access_key_id>[^/,\s]+)/\d{8}/(?P<region>[^/,\s]+)/(?P<service>[^/,\s]+)"
    r"/aws4_request,\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Signature:
    """What a request says of its signature."""

    access_key_id: str
    region: str
    service: str
    headers: str
    signature: str


def find_signature(request: Request) -> Signature | None:
    """The request's signature, right or wrong; None where it has none."""
    found = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    return Signature(**found.groupdict()) if found else None


def is_right(signature: Signature, request: Request, *, key: str) -> bool:
    """Whether it was made with the cloud's own credentials. Reads the body whole: before it is read as a form."""
    signed = AWSRequest(
        method=request.method,
        url=f"http://{request.host}{request.environ['REQUEST_URI']}",
        data=request.get_data(),
        headers={name: request.headers.get(name, "") for name in signature.headers.split(";")},
    )
    signed.context["timestamp"] = request.headers.get("X-Amz-Date", "")
    signer = SigV4Auth(Credentials(ACCESS_KEY_ID, key), signature.service, signature.region)
    try:
        made = signer.signature(signer.string_to_sign(signed, signer.canonical_request(signed)), signed)
    except ValueError:  # a Host with which there is no address
        return False
    return signature.access_key_id == ACCESS_KEY_ID and hmac.compare_digest(made, signature.signature)
