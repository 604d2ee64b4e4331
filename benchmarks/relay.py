"""A TCP relay that counts what passes and can hold it back, and a directory of hosts that answers with relays' ports.

gpuctl asks a cloud's directory where a host is (`Profile.host_directory_url`). One that answers with a relay's port
puts the relay between laptop and host, without either knowing.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import ProxyHandler, Request, build_opener

from gpuctl.core.cloud_key import request_headers

_CHUNK = 1 << 16


@dataclass
class Traffic:
    """What passed. A turn is the laptop speaking after the host has: at most so many round trips were waited for."""

    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    turns: int = 0


class Relay:
    """Listens on loopback and joins each connection to the host's, each way `delay_s` late."""

    def __init__(self, host: tuple[str, int], *, delay_s: float = 0.0) -> None:
        self.traffic = Traffic()
        self._host, self._delay_s = host, delay_s
        self._lock = threading.Lock()
        self._host_spoke: dict[socket.socket, bool] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more connections; those that are there end with their ends."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                laptop, _ = self._listener.accept()
            except OSError:
                return
            host = socket.create_connection(self._host)
            for end in (laptop, host):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.traffic.connections += 1
                self._host_spoke[laptop] = True
            self._join(laptop, host, laptop=laptop)
            self._join(host, laptop, laptop=laptop)

    def _join(self, source: socket.socket, sink: socket.socket, *, laptop: socket.socket) -> None:
        late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(source, late, laptop), daemon=True).start()
        threading.Thread(target=_write, args=(sink, late), daemon=True).start()

    def _read(self, source: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]], laptop: socket.socket) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            if data:
                self._count(len(data), laptop, up=source is laptop)
            late.put((time.monotonic() + self._delay_s, data))

    def _count(self, size: int, laptop: socket.socket, *, up: bool) -> None:
        with self._lock:
            if up:
                self.traffic.bytes_up += size
                self.traffic.turns += self._host_spoke[laptop]
            else:
                self.traffic.bytes_down += size
            self._host_spoke[laptop] = not up


def _write(sink: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = late.get()
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
        except OSError:
            return


class Directory:
    """A directory of hosts at `url`, in which each host of the real one is behind a relay."""

    def __init__(self, real_url: str, *, key: str | None, delay_s: float = 0.0) -> None:
        self.relays: dict[str, Relay] = {}
        lock = threading.Lock()
        relays, opener = self.relays, build_opener(ProxyHandler({}))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                instance_id = self.path.strip("/")
                with lock:
                    if instance_id not in relays:
                        url = f"{real_url}/{instance_id}"
                        with opener.open(Request(url, headers=request_headers(key, "GET", url))) as answer:
                            known = json.load(answer)
                        relays[instance_id] = Relay((known["address"], known["port"]), delay_s=delay_s)
                body = json.dumps({"address": "127.0.0.1", "port": relays[instance_id].port}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def traffic(self) -> Traffic:
        """Of all hosts together."""
        total = Traffic()
        for relay in self.relays.values():
            total.connections += relay.traffic.connections
            total.bytes_up += relay.traffic.bytes_up
            total.bytes_down += relay.traffic.bytes_down
            total.turns += relay.traffic.turns
        return total

    def close(self) -> None:
        """End the server and its relays."""
        self._server.shutdown()
        self._server.server_close()
        for relay in self.relays.values():
            relay.close()
