"""SFTP on a host: any path, as for any process there; a relative one begins at HOME."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh


class HostFiles(asyncssh.SFTPServer):
    """The file system as SFTP shows it."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(chan)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        """A client's path as a local one."""
        return os.path.join(self._home, path)  # noqa: PTH118 - names on a host are bytes

    def exit(self) -> None:
        """Ends the session with an exit status, which asyncssh leaves out and OpenSSH's `sftp` and `scp` wait for."""
        self.channel.exit(0)
