"""SFTP on a host: any path, as for any process there; a relative one begins at HOME."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO, cast

import asyncssh
from asyncssh.channel import SSHChannel

_UNSENT = 4 * 1024 * 1024
_LOOK_AGAIN_S = 0.005


class HostFiles(asyncssh.SFTPServer):
    """The file system as SFTP shows it."""

    def __init__(self, home: Path, chan: SSHChannel[bytes]) -> None:
        super().__init__(cast("asyncssh.SSHServerChannel[bytes]", chan))
        self._home = os.fsencode(home)
        self._turn = asyncio.Lock()

    def map_path(self, path: bytes) -> bytes:
        """A client's path as a local one."""
        return os.path.join(self._home, path)  # noqa: PTH118 - names on a host are bytes

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        """Reads when what was read before has been sent: clients ask for a whole file at once (paramiko's `get`)."""
        async with self._turn:
            while self.channel.get_write_buffer_size() > _UNSENT:
                await asyncio.sleep(_LOOK_AGAIN_S)
        file = cast("IO[bytes]", file_obj)
        file.seek(offset)
        return file.read(size)

    def exit(self) -> None:
        """Ends the session with an exit status, which asyncssh leaves out and OpenSSH's `sftp` and `scp` wait for."""
        self.channel.exit(0)
