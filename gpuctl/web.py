"""Small answers over HTTP from services that are not AWS: this machine's address, a host's, a cloud's health."""

from __future__ import annotations

from http.client import HTTPException
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from gpuctl.core.cloud_key import request_headers


def is_loopback(url: str | None) -> bool:
    """True for the address of a server on this machine."""
    host = urlsplit(url or "").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def get(url: str, *, limit: int, timeout_s: float, key: str | None = None) -> bytes:
    """The first `limit` bytes of what is at a URL. No proxy is asked for what is on this machine. Raises OSError.

    `key`: the cloud's, which the request proves that it has.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError(f"{url} is not a web address")
    request = Request(url, headers=request_headers(key, "GET", url))  # noqa: S310 - one of the two schemes above
    opener = build_opener(ProxyHandler({})) if is_loopback(url) else build_opener()
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            body: bytes = answer.read(limit)
            return body
    except (HTTPException, ValueError) as error:
        raise OSError(f"{url}: {error!r}") from error
