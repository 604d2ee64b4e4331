"""How long a host lives: the deadline that its boot has set, and the idle limit that counts once outputs are home."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Callable, Optional

from provisioning.driver import power_off
from provisioning.places import Places, read_json, write_json
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


def receipt_verb(places: Places, channel: Channel) -> int:
    """Write down that a pull has left nothing behind, and whether what it saw was the end."""
    request = channel.read_request()
    receipt = {"files": int(request.number("files")), "bytes": int(request.number("bytes")), "at": request.number("at")}
    # Not told by `at`, which is of the laptop's clock: the pull's last manifest said whether training had ended.
    final = request.flag("over")
    write_json(places.receipt, {**receipt, "final": final})
    channel.emit("receipt", **receipt, final=final)
    return 0


def home_since(places: Places) -> Optional[float]:
    """When a pull that saw training's end left its receipt, by this host's clock; None while none has."""
    if (read_json(places.receipt) or {}).get("final") is not True:
        return None
    try:
        return places.receipt.stat().st_mtime
    except OSError:
        return None


def power_off_when_idle(
    places: Places, *, idle_s: float, pause: Callable[[], bool], off: Callable[[], bool] = power_off
) -> bool:
    """Power off `idle_s` after training has ended and its outputs are home. False where `pause` asked to leave.

    `pause` waits a moment and answers whether to go on.
    """
    while True:
        home = home_since(places)
        if home is not None and time.time() >= home + idle_s and off():
            return True
        if not pause():
            return False
