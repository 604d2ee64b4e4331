"""Plain `ssh` to a run: the words that gpuctl runs in its place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from gpuctl.core.errors import GpuctlError
from gpuctl.state.paths import Paths
from gpuctl.workflows.hosts import RunHandle, refresh_ssh_target

_IN_WORKSPACE = (
    "cd ~/gpuctl/work 2>/dev/null; "
    "if [ -r ~/gpuctl/venv/bin/activate ]; then . ~/gpuctl/venv/bin/activate; fi; "
    'exec "${SHELL:-/bin/sh}" -i'
)
"""What a shell on the host begins with; no login shell, as that may set PATH anew."""

_WITHOUT_SHELL = frozenset("NWOsTfGVQ")
_WITH_VALUE = frozenset("BbcDEeFIiJLlmOopPQRSWw")
"""Of ssh's options, those with which it opens no shell, and those that a value follows. https://man.openbsd.org/ssh"""

_SPECIAL = re.compile(r'[%$*?\[\]{}\\"]')


def ssh_command(
    run: RunHandle, *, options: Sequence[str], remote: Sequence[str], on_terminal: bool = False
) -> list[str]:
    """The command that reaches the run's host; `remote` is joined by spaces and read by the shell there, as by ssh.

    `on_terminal`: who types here gets a shell in the workspace, its virtualenv active. Raises where there is no ssh, no
    key here, or no host any more.
    """
    program = shutil.which("ssh")
    if program is None:
        raise GpuctlError(
            "this machine has no ssh program", "install OpenSSH's client; `tail` and `pull` work without it"
        )
    refresh_ssh_target(run)
    reached = [program, "-F", str(run.folder.ssh_config), *options]
    if not remote and on_terminal and opens_shell(options):
        return [*reached, "-t", run.name, _IN_WORKSPACE]
    return [*reached, run.name, *(["--", " ".join(remote)] if remote else [])]


def opens_shell(options: Sequence[str]) -> bool:
    """Whether ssh, given these options and no command, opens a shell on the host."""
    for word in options:
        if re.search("remotecommand|sessiontype", word, re.IGNORECASE):
            return False
        letters = word[1:] if word.startswith("-") else ""
        for letter in letters:
            if letter in _WITHOUT_SHELL:
                return False
            if letter in _WITH_VALUE:
                break
    return True


def include_line(paths: Paths) -> str:
    """The line with which `ssh`, editors and whatever else reads ~/.ssh/config know the hosts of all runs.

    What a pattern, a token or a variable could begin with is matched by `?`: only newer OpenSSH expands the last two.
    """
    return f'Include "{_SPECIAL.sub("?", str(paths.runs))}/*/ssh_config"'
