"""Hosts whose disk is small and really fills up: a file system of their own, where this user may mount one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

_FENCES = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])


def small_disk_host_command(state: Path, *, mib: int = 32) -> str:
    """What `python -m gpuctl.embedded_cloud start … --host-command` takes: hosts whose disks are of that size.

    Each host has them in a mount namespace of its own, so nothing outlives it and nobody outside sees them; they are
    empty again at the next boot. The test is skipped where no mount is permitted, as in a container: there
    `POST /gpuctl/hosts/ID/fill` is the nearest thing.
    """
    fence = next((fence for fence in _FENCES if _permitted(fence)), None)
    if fence is None:
        pytest.skip("this user may not mount here")
    where = shlex.quote(str(state.absolute() / "hosts"))
    host = f"exec {shlex.quote(sys.executable)} -m gpuctl.embedded_cloud.host"
    return json.dumps([*fence, "sh", "-c", f"mount -t tmpfs -o size={mib}m,mode=700 none {where} && {host}"])


def _permitted(fence: list[str]) -> bool:
    try:
        tried = [*fence, "mount", "-t", "tmpfs", "none", "/tmp" if os.path.isdir("/tmp") else "/"]
        return subprocess.run(tried, capture_output=True, timeout=20, check=False).returncode == 0
    except OSError:
        return False
