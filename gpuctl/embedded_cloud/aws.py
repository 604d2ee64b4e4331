"""AWS requests, to the service that they are signed for, in this process, one at a time."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from moto.core.exceptions import ServiceException
from moto.core.request import Request as MotoRequest
from werkzeug.wrappers import Response

from gpuctl.embedded_cloud import validation
from gpuctl.embedded_cloud.ec2 import EC2, Memory
from gpuctl.embedded_cloud.faults import Calls, Fault, Faults, in_place_of
from gpuctl.embedded_cloud.images import Catalogue
from gpuctl.embedded_cloud.instances import Instances
from gpuctl.embedded_cloud.operations import OFFERED
from gpuctl.embedded_cloud.services import SSM, STS, get_products
from gpuctl.embedded_cloud.signatures import find_signature, is_right

_FOR_TARGET = {"AmazonSSM": "ssm", "AWSPriceListService": "pricing"}
_ID_HEADER = "x-amzn-RequestId"
_OURS = ("status", "content-length", _ID_HEADER.lower())
_REQUEST_ID = re.compile("(?<=<requestId>|<RequestId>|<RequestID>)[^<]*")
_JSON = "application/x-amz-json-1.1"
_NOT_SIGNED = "Request is missing Authentication Token"
_NOT_THE_OWNER = (
    "AWS was not able to validate the provided access credentials: they are not those of this embedded cloud, "
    "which has new ones with every start (`gpuctl cloud env`)"
)

log = logging.getLogger(__name__)


class Request(MotoRequest):
    """A request that came over HTTP, in the class that moto's dispatch takes."""

    from_wsgi_server = True
    max_content_length = 8 * 2**20


@dataclass(frozen=True)
class Call:
    """One AWS call: to which service, which operation."""

    service: str
    operation: str


class AWS:
    """The API. Every call is counted, meets its fault if it has one, and runs under the one lock around moto."""

    def __init__(
        self,
        *,
        lock: threading.RLock,
        key: str,
        instances: Instances,
        faults: Faults,
        calls: Calls,
        images: Catalogue,
    ) -> None:
        self._key = key
        self._images = images
        self._lock = lock
        self._instances = instances
        self._faults = faults
        self._calls = calls
        self._memory = Memory()

    def answer(self, request: Request) -> tuple[Response, bool, Fault | None]:
        """The answer, whether its owner has signed the call, and the fault that the answer's way back has."""
        signature = find_signature(request)
        if signature is None:
            return _error(None, "MissingAuthenticationToken", _NOT_SIGNED, status=403), False, None
        right = is_right(signature, request, key=self._key)
        call = _call(request, service=signature.service)
        if not right:
            return _error(call, "AuthFailure", _NOT_THE_OWNER, status=403), False, None
        response, fault = self._answer_owner(request, call, region=signature.region)
        return response, True, fault

    def _answer_owner(self, request: Request, call: Call, *, region: str) -> tuple[Response, Fault | None]:
        self._calls.note(call.service, call.operation)
        fault = self._faults.take(call.operation, region)
        if fault is not None:
            time.sleep(fault.delay_s)
            if fault.code is not None:
                return _error(call, fault.code, fault.words, status=fault.status or 400), None
            if fault.body is not None and fault.lost:
                return _garbled(fault, Response(status=HTTPStatus.OK)), fault
        began = time.monotonic()
        response = self._carry_out(request, call)
        duration_ms = (time.monotonic() - began) * 1000
        log.info("%s %s %d %.1f ms", call.service, call.operation, response.status_code, duration_ms)
        if fault is not None and fault.body is not None:
            response = _garbled(fault, response)
        return response, fault

    def _carry_out(self, request: Request, call: Call) -> Response:
        try:
            with self._lock:
                return self._dispatch(request, call)
        except NotImplementedError as error:
            return _error(call, _NOT_THERE, str(error))
        except ServiceException as error:
            status = 412 if error.code == "DryRunOperation" else 400
            return _error(call, error.code, error.message, status=status)
        except Exception:
            # whatever breaks in moto is answered as AWS answers what breaks there, and told in the log
            log.exception("%s %s", call.service, call.operation)
            return _error(call, "InternalError", "An internal error has occurred", status=500)

    def _dispatch(self, request: Request, call: Call) -> Response:
        handler: Any
        request_id = str(uuid.uuid4())
        if call.operation not in OFFERED.get(call.service, ()):
            named = call.operation or "of no name"
            return _error(call, _NOT_THERE, f"The action {named} is not valid for this embedded cloud")
        if call.service == "ec2":
            validation.check(call.operation, request.values)
            handler = EC2(instances=self._instances, faults=self._faults, memory=self._memory, images=self._images)
        elif call.service == "sts":
            handler = STS()
        else:
            params = json.loads(request.get_data() or b"{}")
            validation.check_json(call.service, call.operation, params)
            if call.service == "pricing":
                body = json.dumps(get_products(params))
                return Response(body, content_type=_JSON, headers={_ID_HEADER: request_id})
            handler = SSM(images=self._images)
        status, headers, body = handler._dispatch(request)
        body = _REQUEST_ID.sub(request_id, body)
        return Response(body, status=int(status), headers=[*_headers(headers), (_ID_HEADER, request_id)])


def _call(request: Request, *, service: str) -> Call:
    target = request.headers.get("X-Amz-Target")
    if target:
        prefix, _, operation = target.rpartition(".")
        return Call(_FOR_TARGET.get(prefix.partition("_")[0], service), operation)
    return Call(service, request.form.get("Action") or request.args.get("Action") or "")


def _headers(headers: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in headers.items() if name.lower() not in _OURS]


def _garbled(fault: Fault, response: Response) -> Response:
    """What something between EC2 and its caller puts in the place of the answer."""
    whole = response.get_data()
    body = in_place_of(str(fault.body), whole)
    html = fault.body in ("page", "xhtml")
    garbled = Response(body, status=fault.status or 200, content_type="text/html" if html else response.content_type)
    if fault.body == "short":
        garbled.headers["Content-Length"] = str(len(whole) or 1000)
    return garbled


_NOT_THERE = "InvalidAction"
"""Answered with 400, where moto's server answers 500 and boto3 then tries again for a long time."""


def _error(call: Call | None, code: str, message: str, *, status: int = 400) -> Response:
    """An error in the form that the call's service has: JSON but for those of old."""
    request_id = str(uuid.uuid4())
    if call is not None and call.service not in ("ec2", "sts"):
        body = json.dumps({"__type": code, "message": message})
        return Response(body, status=status, content_type=_JSON, headers={_ID_HEADER: request_id})
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
        f"<RequestID>{request_id}</RequestID></Response>"
    )
    return Response(text, status=status, content_type="text/xml", headers={_ID_HEADER: request_id})
