"""Plain `ssh` to a run: the words that gpuctl runs in its place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from gpuctl.core.errors import GpuctlError
from gpuctl.core.shell import command
from gpuctl.workflows.hosts import RunHandle, refresh_ssh_target


def ssh_command(run: RunHandle, *, options: Sequence[str], remote: Sequence[str]) -> list[str]:
    """The command that reaches the run's host. Raises where there is no ssh, no key here, or no host any more."""
    program = shutil.which("ssh")
    if program is None:
        raise GpuctlError("this machine has no ssh program", "install OpenSSH's client; `tail` and `pull` do without")
    refresh_ssh_target(run)
    words = [command(*remote)] if remote else []
    return [program, "-F", str(run.folder.ssh_config), *options, run.name, *words]
