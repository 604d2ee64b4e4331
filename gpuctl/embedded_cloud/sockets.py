"""Listening sockets on the loopback, for the API and for hosts."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
_BACKLOG = 128


def listen(*ports: int) -> socket.socket:
    """A socket that listens on the first of the ports that is free (0: any). Raises OSError where none is."""
    for wanted in ports[:-1]:
        try:
            return _listen(wanted)
        except OSError:
            continue
    return _listen(ports[-1])


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
