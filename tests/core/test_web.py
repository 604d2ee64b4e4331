"""Small answers over HTTP: whoever gives them, gpuctl goes on in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

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


def test_an_answer_that_comes_byte_by_byte_is_left(dripping: str) -> None:
    """The time is for all of it, not for each byte."""
    began = time.monotonic()
    with pytest.raises(OSError):
        web.get(dripping, limit=65536, timeout_s=0.5)
    assert time.monotonic() - began < 5
