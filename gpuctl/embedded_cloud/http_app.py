"""The cloud's HTTP server: AWS's API at `/`, the cloud's own questions at `/gpuctl/`, hosts' metadata at `/imds/`.

It listens on 127.0.0.1 alone and answers no browser: a page on the web could otherwise launch a host through it.
Nor does it answer another user of this machine: whoever asks proves that they have the cloud's key (`core.cloud_key`).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from gpuctl.core.cloud_key import PROOF_HEADER, answer_words, health_words, host_words, prove, proves, request_words
from gpuctl.embedded_cloud import access, metadata
from gpuctl.embedded_cloud.aws import AWS, Request
from gpuctl.embedded_cloud.faults import Calls, Fault, Faults, fault_from_json
from gpuctl.embedded_cloud.images import Catalogue
from gpuctl.embedded_cloud.instances import RETIRED, Instances, InstanceState
from gpuctl.embedded_cloud.sockets import LOOPBACK

_NAMES = (LOOPBACK, "localhost")


@dataclass(frozen=True)
class App:
    """The WSGI application."""

    state: str
    endpoint: str
    key: str = field(repr=False)
    aws: AWS
    instances: Instances
    faults: Faults
    calls: Calls
    images: Catalogue

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        if "Origin" in request.headers or request.host.rpartition(":")[0] not in _NAMES:
            return Response("not for browsers\n", HTTPStatus.FORBIDDEN)(environ, start_response)
        try:
            response, fault = self._answer(request)
        except HTTPException as error:  # a body that is too large
            return error.get_response(environ)(environ, start_response)
        if fault is not None and fault.drop:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if fault is not None and fault.body == "short":
            return _then_closed(response(environ, start_response), environ["werkzeug.socket"])
        return response(environ, start_response)

    def _answer(self, request: Request) -> tuple[Response, Fault | None]:
        if request.path.startswith("/gpuctl/"):
            path = request.path.removeprefix("/gpuctl/").split("/")
            return self._own(request, path) if self._may_ask(request, path) else _refused(), None
        if request.path.startswith("/imds/"):
            return self._metadata(request), None
        response, signed, fault = self.aws.answer(request)
        if signed:
            words = answer_words(request.headers["Authorization"], response.get_data())
            response.headers[PROOF_HEADER] = prove(self.key, *words)
        return response, fault

    def _health(self, request: Request) -> dict[str, Any]:
        """To anybody, that this is the cloud; to its owner, how it is."""
        proof = prove(self.key, *health_words(request.args.get("nonce", ""), self.endpoint))
        cloud = {"cloud": "gpuctl's embedded cloud", "proof": proof}
        if not self._is_owners(request):
            return cloud
        found = {"instances": len(self.instances.alive()), "pythons": self.images.told()}
        return {**cloud, "pid": os.getpid(), "state": self.state, **found}

    def _may_ask(self, request: Request, path: list[str]) -> bool:
        """Whoever proves it; a host, who may come in to it; and anybody, whether this is the cloud."""
        match path:
            case ["health"]:
                return True
            case ["hosts", instance_id, "admits"] if "token" in request.args:
                return proves(self.key, request.args["token"], *host_words(instance_id))
        return self._is_owners(request)

    def _is_owners(self, request: Request) -> bool:
        words = request_words(request.method, request.environ["REQUEST_URI"])
        return proves(self.key, request.headers.get(PROOF_HEADER), *words)

    def _own(self, request: Request, path: list[str]) -> Response:
        match (request.method, *path):
            case ("GET", "health"):
                return _json(self._health(request))
            case ("GET", "caller-address"):
                fault = self.faults.take("CallerAddress")
                seen = fault.message if fault else request.remote_addr
                return Response(f"{seen}\n", content_type="text/plain")
            case ("GET", "calls"):
                return _json({"calls": self.calls.list()})
            case ("DELETE", "calls"):
                self.calls.clear()
                return _json({})
            case ("POST" | "DELETE", "faults"):
                return self._set_fault(request)
            case (method, "hosts", instance_id, *rest):
                return self._host(request, method, self.instances.life(instance_id), rest)
        return _json({"error": f"there is no {request.method} {request.path}"}, HTTPStatus.NOT_FOUND)

    def _set_fault(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.faults.clear()
            return _json({})
        try:
            self.faults.add(fault_from_json(json.loads(request.get_data())))
        except (ValueError, TypeError) as error:
            return _json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        return _json({}, HTTPStatus.CREATED)

    def _host(self, request: Request, method: str, life: InstanceState | None, rest: list[str]) -> Response:
        if life is None or life.gone:
            return _json({"error": "no such host"}, HTTPStatus.NOT_FOUND)
        match (method, *rest):
            case ("GET",):
                if life.port is None:
                    return _json({"error": "this instance has no host"}, HTTPStatus.NOT_FOUND)
                return _json({"address": LOOPBACK, "port": life.port})
            case ("GET", "admits"):
                admitted = self._admits(life, request.args.get("address", ""))
                return _json({"admits": admitted}, HTTPStatus.OK if admitted else HTTPStatus.FORBIDDEN)
            case ("POST", "reclaim"):
                notice_s = request.args.get("notice_s", 120.0, type=float)
                at = self.instances.reclaim(life, notice_s=notice_s)
                return _json({"terminates": at.isoformat()})
            case ("POST", "retire" | "reboot" as word):
                return self._by_aws(life, word)
            case ("POST", "freeze" | "deafen" | "fill" | "heal" as kind):
                return self._befall(life, kind)
        return _json({"error": f"there is no {method} {request.path}"}, HTTPStatus.NOT_FOUND)

    def _by_aws(self, life: InstanceState, word: str) -> Response:
        """What AWS does with an instance unasked: it stops it at a retirement, reboots it for maintenance."""
        with self.instances.lock:
            if word == "retire":
                self.instances.stop(life.instance, RETIRED)
            else:
                self.instances.reboot(life.instance)
            return _json({"state": life.instance.state})

    def _befall(self, life: InstanceState, kind: str) -> Response:
        faults = self.instances.faults(life)
        if faults is None:
            return _json({"error": "this instance has no host that runs"}, HTTPStatus.CONFLICT)
        try:
            if kind == "heal":
                faults.end()
            else:
                faults.begin(kind)
        except NotImplementedError as error:
            return _json({"error": str(error)}, HTTPStatus.NOT_IMPLEMENTED)
        return _json({})

    def _admits(self, life: InstanceState, address: str) -> bool:
        with self.instances.lock:
            rules = [rule for group in life.instance.security_groups for rule in _rules(group)]
            others = [
                access.Member(other.instance.id, LOOPBACK, frozenset(g.id for g in other.instance.security_groups))
                for other in self.instances.alive()
                if other is not life and other.instance.region_name == life.instance.region_name
            ]
        return access.allows_ssh(rules, address, others=others)

    def _metadata(self, request: Request) -> Response:
        instance_id, token, path = (*request.path.removeprefix("/imds/").split("/", 2), "", "")[:3]
        if not proves(self.key, token, *host_words(instance_id)):
            return _refused()
        life = self.instances.life(instance_id)
        if life is None or life.gone:
            return Response(status=HTTPStatus.NOT_FOUND)
        with self.instances.lock:
            headers = {name.lower(): value for name, value in request.headers}
            found = metadata.answer(life, request.method, path, headers)
        return Response(found.body, status=found.status, content_type=found.content_type, headers=dict(found.headers))


def _then_closed(body: Iterable[bytes], connection: socket.socket) -> Iterable[bytes]:
    """An answer whose connection ends before it is whole."""
    yield from body
    connection.shutdown(socket.SHUT_RDWR)


def _rules(group: Any) -> Iterable[access.Rule]:
    for rule in group.ingress_rules:
        yield access.Rule(
            protocol=str(rule.ip_protocol),
            from_port=rule.from_port,
            to_port=rule.to_port,
            cidr=rule.ip_range.get("CidrIp") or rule.ip_range.get("CidrIpv6"),
            group_id=rule.source_group.get("GroupId"),
        )


def _json(values: dict[str, Any], status: int = HTTPStatus.OK) -> Response:
    return Response(json.dumps(values) + "\n", status=status, content_type="application/json")


def _refused() -> Response:
    error = "only the owner of this embedded cloud may ask: whoever has the key in its cloud.json"
    return _json({"error": error}, HTTPStatus.FORBIDDEN)


class _Handler(WSGIRequestHandler):
    """Connections that are kept, and an answer's two parts that are not held back for an acknowledgement (40 ms)."""

    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        if self.path.startswith("/"):
            super().run_wsgi()
        else:
            self.send_error(HTTPStatus.BAD_REQUEST)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Calls are logged where their operation is known."""


def server(listener: socket.socket, app: App) -> BaseWSGIServer:
    """The HTTP server on a listening socket, a thread for each connection."""
    host, port = listener.getsockname()
    return make_server(host, port, app, threaded=True, request_handler=_Handler, fd=listener.fileno())
