"""What may befall a host that runs: it freezes, its SSH server goes deaf, its disk fills up. For tests.

The host's first process is spared: it is what the hardware is to a host, and ends a frozen one all the same.
"""

from __future__ import annotations

import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field

from gpuctl.embedded_cloud.cleanup import runs_module
from gpuctl.embedded_cloud.host.processes import belonging, signal_all, stop_all

_SSH_SERVER = "gpuctl.embedded_cloud.host.machine"


@dataclass
class HostFaults:
    """The faults of one host: `first` is its first process's id, `mark` as in its configuration."""

    first: int
    mark: str
    stopped: set[int] = field(default_factory=set)
    filled: bool = False

    def begin(self, kind: str) -> None:
        """`freeze`: nothing of it runs; `deafen`: its SSH server takes connections and says nothing; `fill`: its disk.

        Raises NotImplementedError where this system does not let it be.
        """
        if kind == "freeze":
            self.stopped |= stop_all(self.mark, root=self.first)
        elif kind == "deafen":
            servers = {pid for pid in belonging(self.mark, root=self.first) if runs_module(pid, _SSH_SERVER)}
            signal_all(servers, signal.SIGSTOP)
            self.stopped |= servers
        else:
            self._limit_files(full=True)

    def end(self) -> None:
        """The host is well again."""
        if self.filled:
            self._limit_files(full=False)
        signal_all(self.stopped, signal.SIGCONT)
        self.stopped = set()

    def _limit_files(self, *, full: bool) -> None:
        """Lets no process of the host write to a file (RLIMIT_FSIZE), now and in what it starts.

        Near a full disk and no more: a write fails with EFBIG, where that is ENOSPC, or ends a program that does not
        ignore SIGXFSZ (a shell); files are still made, empty. A disk that is full needs a file system of its own.
        """
        if sys.platform != "linux":
            raise NotImplementedError("only Linux lets one process set another's limits")
        running = stop_all(self.mark, root=self.first) - self.stopped  # none may start another meanwhile
        for pid in running | self.stopped:
            with suppress(ProcessLookupError, PermissionError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))
        self.filled = full
        signal_all(running, signal.SIGCONT)
