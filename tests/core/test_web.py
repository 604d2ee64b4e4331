"""Small answers over HTTP: whoever gives them, gpuctl goes on in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gpuctl import web

HEAD = b"HTTP/1.1 200 OK\r\nX-Long: "
BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture(params=[HEAD, BODY], ids=["headers", "body"])
def dripping(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of what answers a byte now and then."""

    def drip() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(request.param)
            while not ended.wait(0.1):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        ended.set()
        thread.join()


class Saying(BaseHTTPRequestHandler):
    """Answers with the server's own word."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.word)  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextmanager
def saying(word: bytes, *, family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """The port of a server on this machine that says so."""
    kind = type("Server", (ThreadingHTTPServer,), {"address_family": family, "word": word})
    with kind(("::1" if family is socket.AF_INET6 else "127.0.0.1", 0), Saying) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be its address that is seen, and SSH goes without it."""
    with saying(b"direct") as port, saying(b"proxied") as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        assert web.get(f"http://0.0.0.0:{port}/", limit=100, timeout_s=5) == b"direct"


def test_ipv4_alone_is_used() -> None:
    """Hosts have nothing else: an answer over IPv6 would tell an address that never comes to them."""
    try:
        serving = saying(b"6", family=socket.AF_INET6)
        with serving as port, pytest.raises(OSError):
            web.get(f"http://[::1]:{port}/", limit=100, timeout_s=5)
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_an_answer_that_comes_byte_by_byte_is_left(dripping: str) -> None:
    """The time is for all of it, not for each byte."""
    began = time.monotonic()
    with pytest.raises(OSError):
        web.get(dripping, limit=65536, timeout_s=0.5)
    assert time.monotonic() - began < 5
