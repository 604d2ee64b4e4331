"""How long a host lives: the deadline that its boot has set, and when it powers itself off sooner."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path
from typing import Callable, Optional

from provisioning.driver import power_off
from provisioning.paths import Paths, read_json, write_json, write_small
from provisioning.protocol import Channel

DEADLINE_MARK = "gpuctl-deadline"
"""The deadline's process is `… gpuctl-deadline END RUN`, END in whole seconds since the epoch."""


def deadline_armed(deadline: float, run: str) -> bool:
    """True where the process that will power this host off at the deadline is there."""
    wanted = (DEADLINE_MARK, str(int(deadline)), run)
    proc = Path("/proc")
    if (proc / "self" / "cmdline").exists():
        return any(_ends_with(arguments, wanted) for arguments in _linux_processes(proc))
    listed = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, check=False).stdout
    text = " ".join(wanted)
    return any(line.rstrip().endswith(" " + text) for line in listed.decode("utf-8", "replace").splitlines())


def _ends_with(arguments: list[str], wanted: tuple[str, ...]) -> bool:
    return tuple(arguments[-len(wanted) :]) == wanted


def _linux_processes(proc: Path) -> list[list[str]]:
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                raw = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            found.append(raw.decode("utf-8", "replace").rstrip("\0").split("\0"))
    return found


def receipt_verb(paths: Paths, channel: Channel) -> int:
    """Write down that a pull has left nothing behind, and whether what it saw was the end."""
    request = channel.read_request()
    receipt = {"files": int(request.number("files")), "bytes": int(request.number("bytes")), "at": request.number("at")}
    # Not told by `at`, which is of the laptop's clock: the pull's last manifest said whether training had ended.
    final = request.flag("over")
    write_json(paths.last_begun().receipt, {**receipt, "final": final})
    idle_s = (read_json(paths.spec) or {}).get("idle_s")
    if final and isinstance(idle_s, (int, float)):
        power_off_by(paths, time.time() + idle_s)
    channel.emit("receipt", **receipt, final=final)
    return 0


def power_off_at(paths: Paths) -> Optional[float]:
    """When this host powers itself off by itself; None where only its deadline ends it."""
    try:
        digits = paths.power_off_at.read_bytes()[:10].strip()
    except OSError:
        return None
    return float(digits) if digits.isdigit() else None


def power_off_by(paths: Paths, at: float) -> None:
    """Have the host power itself off at `at`, or when it does already where that is sooner. Raises OSError."""
    current = power_off_at(paths)
    if current is None or at < current:
        write_small(paths.power_off_at, f"{math.ceil(at)}\n")


def power_off_when_due(paths: Paths, *, pause: Callable[[], bool], off: Callable[[], bool] = power_off) -> bool:
    """Power off when it is time, besides the boot's own loop. False where `pause` asked to leave.

    `pause` waits a moment and answers whether to go on.
    """
    while True:
        at = power_off_at(paths)
        if at is not None and time.time() >= at and off():
            return True
        if not pause():
            return False
