"""What a cloud that died leaves: hosts that are ending, their disks, and the ledger that names them."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

from gpuctl.embedded_cloud.host import cleanup as host_cleanup
from gpuctl.embedded_cloud.place import Place

HOSTS_END_WITHIN_S = 10.0
HOST_MODULE = "gpuctl.embedded_cloud.host"


def clear(place: Place) -> list[str]:
    """Waits for the hosts of a dead cloud to end, removes their disks; answers with the instances that are lost.

    Hosts end by themselves when their cloud is gone; one that does not is killed, with all that carries its mark.
    """
    pids = _ledger(place)
    deadline = time.monotonic() + HOSTS_END_WITHIN_S
    while (
        alive := [pid for pid in pids.values() if pid and runs_module(pid, HOST_MODULE)]
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for instance_id in pids:
        if (disk := place.hosts / instance_id).exists():
            host_cleanup.clear(disk, instance_id)
        (place.ledger / instance_id).unlink(missing_ok=True)
    return sorted(pids)


def _ledger(place: Place) -> dict[str, int | None]:
    """Host process ids by instance; None for an instance whose host had not begun, or that had none."""
    pids: dict[str, int | None] = {}
    for entry in place.ledger.iterdir() if place.ledger.is_dir() else ():
        with contextlib.suppress(OSError):
            text = entry.read_text(encoding="ascii").strip()
            pids[entry.name] = int(text) if text.isdigit() else None
    return pids


def runs_module(pid: int, module: str) -> bool:
    """Whether this process lives and runs the module: its number may have been given to another since."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and module in " ".join(process.cmdline())
    return False
