"""`gpuctl` in processes of its own that have imported everything already: forks of one that waits for words.

Most of what a command costs a test is the import of boto3 and paramiko, hundreds of times over. What is forked is a
whole process, with its own environment, folder, streams and exit code; only its imports are not its own.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

IMPORTED = {
    "cli": ("attach", "cloud", "down", "jobs", "launch", "list_runs", "metrics", "offers", "pull", "status", "stop"),
    "workflows": ("down", "follow", "hosts", "launch", "planning", "pull", "removal", "runs"),
    "ui": ("console", "log", "metrics", "plan", "progress"),
}
_NUMBER = struct.Struct("i")
_ANSWERS_WITHIN_S = 30


class Warm:
    """The process that waits, and the way to have it fork. One command at a time."""

    def __init__(self) -> None:
        self._socket, its = socket.socketpair()
        words = [sys.executable, __file__, str(its.fileno())]
        with its:
            self._process = subprocess.Popen(words, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, cwd="/")

    def run(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, bytes]:
        """One command to its end: its exit code, its standard output, its standard error."""
        asked = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
        with (
            _file(asked) as request,
            open(os.devnull) as nothing,
            _file() as out,
            _file() as err,
        ):
            socket.send_fds(self._socket, [b"-"], [file.fileno() for file in (request, nothing, out, err)])
            pid = self._number(_ANSWERS_WITHIN_S)
            try:
                code = self._number(timeout)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._number(_ANSWERS_WITHIN_S)
                raise subprocess.TimeoutExpired(list(words), timeout, _read(out), _read(err)) from None
            return code, _read(out), _read(err)

    def _number(self, within_s: float) -> int:
        self._socket.settimeout(within_s)
        (number,) = _NUMBER.unpack(self._socket.recv(_NUMBER.size))
        return int(number)


def _file(content: bytes = b"") -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content)
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _wait_for_words(channel: socket.socket) -> None:
    """Until whoever asks has gone. In a fork, the command's own end comes through here as SystemExit."""
    while True:
        told, descriptors, _, _ = socket.recv_fds(channel, 1, 4)
        if not told:
            return
        pid = os.fork()
        if pid == 0:
            channel.close()
            _be_gpuctl(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(_NUMBER.pack(pid))
        _, status = os.waitpid(pid, 0)
        channel.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _be_gpuctl(request: int, *streams: int) -> NoReturn:
    from gpuctl.cli.main import main

    with open(request, "rb") as file:
        asked = json.load(file)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate(("r", "w", "w")))  # noqa: SIM115
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["gpuctl", *asked["words"]]
    main()
    sys.exit()


if __name__ == "__main__":
    for layer, names in IMPORTED.items():
        for name in names:
            importlib.import_module(f"gpuctl.{layer}.{name}")
    _wait_for_words(socket.socket(fileno=int(sys.argv[1])))
