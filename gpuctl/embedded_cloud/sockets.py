"""Listening sockets on the loopback, for the API and for hosts."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
_BACKLOG = 128


def listen(*ports: int) -> socket.socket:
    """A socket that listens on the first of the ports that is free (0: any). Raises OSError where none is."""
    for wanted in ports[:-1]:
        try:
            return socket.create_server((LOOPBACK, wanted), backlog=_BACKLOG)
        except OSError:
            continue
    return socket.create_server((LOOPBACK, ports[-1]), backlog=_BACKLOG)
