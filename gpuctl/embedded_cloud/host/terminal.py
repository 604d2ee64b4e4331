"""Pseudo-terminals: made with the size and modes that a client asked for (RFC 4254, section 8)."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Mapping

_CHARACTERS = {
    1: termios.VINTR,
    2: termios.VQUIT,
    3: termios.VERASE,
    4: termios.VKILL,
    5: termios.VEOF,
    6: termios.VEOL,
    8: termios.VSTART,
    9: termios.VSTOP,
    10: termios.VSUSP,
}
_INPUT, _OUTPUT, _LOCAL, _CC = 0, 1, 3, 6
_FLAGS = {
    36: (_INPUT, termios.ICRNL),
    38: (_INPUT, termios.IXON),
    39: (_INPUT, termios.IXANY),
    40: (_INPUT, termios.IXOFF),
    50: (_LOCAL, termios.ISIG),
    51: (_LOCAL, termios.ICANON),
    53: (_LOCAL, termios.ECHO),
    54: (_LOCAL, termios.ECHOE),
    55: (_LOCAL, termios.ECHOK),
    56: (_LOCAL, termios.ECHONL),
    59: (_LOCAL, termios.IEXTEN),
    70: (_OUTPUT, termios.OPOST),
    72: (_OUTPUT, termios.ONLCR),
}
_NONE = 255
# A session's leader takes a terminal that it opens for its own: no code of ours runs between fork and exec.
_TAKE = 'exec <>"$1" >&0 2>&0; shift; exec "$@"'


def open_pair(*, columns: int, rows: int, modes: Mapping[int, int]) -> tuple[int, int]:
    """A new pseudo-terminal: the ends of server and program."""
    server, program = pty.openpty()
    resize(server, columns=columns, rows=rows)
    attributes = termios.tcgetattr(program)
    for opcode, value in modes.items():
        if opcode in _CHARACTERS and value <= _NONE:
            attributes[_CC][_CHARACTERS[opcode]] = b"\0" if value == _NONE else bytes([value])
        elif opcode in _FLAGS:
            field, flag = _FLAGS[opcode]
            attributes[field] = attributes[field] | flag if value else attributes[field] & ~flag
    termios.tcsetattr(program, termios.TCSANOW, attributes)
    os.set_blocking(server, False)
    return server, program


def resize(server: int, *, columns: int, rows: int) -> None:
    """Sets the size; programs on the terminal get SIGWINCH. 0 is a size that the client does not know: 80 × 24."""
    size = struct.pack("HHHH", min(rows, 65535) or 24, min(columns, 65535) or 80, 0, 0)
    fcntl.ioctl(server, termios.TIOCSWINSZ, size)


def controlled_by(program: int, command: list[str]) -> list[str]:
    """`command` as it is started in a new session with the terminal's program end as its controlling terminal."""
    return ["/bin/sh", "-c", _TAKE, "sh", os.ttyname(program), *command]
