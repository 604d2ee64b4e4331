"""Small answers over HTTP from services that are not AWS: this machine's address, a host's, a cloud's health."""

from __future__ import annotations

import io
import time
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from socket import socket
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from gpuctl.core.cloud_key import request_headers
from gpuctl.core.text import safe, shorten

_MOST_TOLD = 300
_ANY_IPV4 = ("0.0.0.0", 0)  # noqa: S104 - nothing listens there
"""A socket that is bound to it connects to no IPv6 address."""


def is_loopback(url: str | None) -> bool:
    """True for the address of a server on this machine."""
    try:
        host = urlsplit(url or "").hostname or ""
    except ValueError:
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def get(url: str, *, limit: int, timeout_s: float, key: str | None = None) -> bytes:
    """The first `limit` bytes of what is at a URL. Raises OSError.

    It is asked as hosts are reached by SSH: over IPv4, and without a proxy, whose address would be seen in our place.
    `timeout_s` is for all of it: what answers a byte now and then is left.
    `key`: the cloud's, which the request proves that it has.
    """
    deadline = time.monotonic() + timeout_s
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise OSError(f"{url} is not a web address")
        request = Request(url, headers=request_headers(key, "GET", url))  # noqa: S310 - one of the two schemes above
        with _opener(deadline).open(request, timeout=timeout_s) as answer:
            body: bytes = answer.read(limit)
            return body
    except Exception as error:  # an address or an answer of any shape: the one border
        if isinstance(error, HTTPError):
            error.close()
        why = str(error) if isinstance(error, OSError) else f"{url}: {error!r}"
        raise OSError(shorten(safe(why), _MOST_TOLD)) from error


class _Until(io.RawIOBase):
    """What a connection receives until the deadline; a socket's own timeout begins anew with every byte."""

    def __init__(self, received: io.RawIOBase, connection: socket, deadline: float) -> None:
        self._received, self._connection, self._deadline = received, connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer did not come in time")
        self._connection.settimeout(left_s)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


def _opener(deadline: float) -> OpenerDirector:
    """Opens what has answered by the deadline (time.monotonic), through redirects."""

    class Response(HTTPResponse):
        def __init__(self, sock: socket, *words: Any, **named: Any) -> None:
            super().__init__(sock, *words, **named)
            self.fp = io.BufferedReader(_Until(self.fp.detach(), sock, deadline))

    class Plain(HTTPConnection):
        response_class = Response

    class Encrypted(HTTPSConnection):
        response_class = Response

    class Http(HTTPHandler):
        def http_open(self, req: Request) -> HTTPResponse:
            return self.do_open(Plain, req, source_address=_ANY_IPV4)

    class Https(HTTPSHandler):
        def https_open(self, req: Request) -> HTTPResponse:
            return self.do_open(Encrypted, req, source_address=_ANY_IPV4)

    return build_opener(ProxyHandler({}), Http, Https)
