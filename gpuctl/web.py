"""Small answers over HTTP from services that are not AWS: this machine's address, a host's, a cloud's health."""

from __future__ import annotations

from http.client import HTTPException
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener


def is_loopback(url: str | None) -> bool:
    """True for the address of a server on this machine."""
    host = urlsplit(url or "").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def get(url: str, *, limit: int, timeout_s: float) -> bytes:
    """The first `limit` bytes of what is at a URL. No proxy is asked for what is on this machine. Raises OSError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError(f"{url} is not a web address")
    opener = build_opener(ProxyHandler({})) if is_loopback(url) else build_opener()
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            body: bytes = answer.read(limit)
            return body
    except (HTTPException, ValueError) as error:
        raise OSError(f"{url}: {error!r}") from error
