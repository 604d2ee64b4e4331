"""The one privileged section: packages, NVIDIA's driver, power-off. Nothing else of the payload writes outside `~`.

Every command (`sudo`, `apt-get`, `shutdown`, …) is found on PATH, where an image may put its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Optional

from provisioning.protocol import PayloadError
from provisioning.shown import run_shown

Tell = Callable[[str], None]

_NVIDIA = "0x10de"
NOT_NEEDED = "not needed: this host has no NVIDIA device"
_APT = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "apt-get", "-y", "-o", "DPkg::Lock::Timeout=300"]


def as_root(command: list[str]) -> list[str]:
    """The command, run as root."""
    return command if os.geteuid() == 0 else ["sudo", "-n", *command]


def install(packages: list[str], tell: Tell) -> None:
    """Install Debian packages, waiting for apt's lock up to five minutes. Raises PayloadError."""
    named = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise PayloadError(f"this host lacks {named} and has no apt-get", "launch from an image that has them")
    # A fresh image's package lists are stale or absent; a failed update still leaves what the image knows.
    run_shown(as_root([*_APT, "-q", "update"]), tell)
    done = run_shown(as_root([*_APT, "-q", "install", "--no-install-recommends", *packages]), tell)
    if done.code != 0:
        raise PayloadError(f"apt-get could not install {named}: {done.reason}", "launch from an image that has them")


def nvidia_answers(within_s: float = 60) -> bool:
    """True where `nvidia-smi` speaks to a driver: a slow one too, since where there is no driver it fails at once."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, timeout=within_s, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
    return done.returncode == 0


def has_nvidia_device(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """True where a device of NVIDIA's is on the PCI bus."""
    for vendor in pci.glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _NVIDIA:
                return True
        except OSError:
            continue
    return False


def ensure_driver(tell: Tell, pci: Path = Path("/sys/bus/pci/devices"), *, within_s: float = 60) -> str:
    """Install NVIDIA's driver where `nvidia-smi` does not answer; says in a few words what was found or done.

    Ubuntu's own way for servers: signed modules for the running kernel, chosen by `ubuntu-drivers`, no compiler.
    Raises PayloadError.
    """
    if nvidia_answers(within_s):
        return "found"
    if not has_nvidia_device(pci):
        return NOT_NEEDED
    install(["ubuntu-drivers-common"], tell)
    for command in (["ubuntu-drivers", "install", "--gpgpu"], ["modprobe", "nvidia"]):
        done = run_shown(as_root(command), tell)
        if done.code != 0:
            raise PayloadError(
                f"NVIDIA's driver could not be installed: {' '.join(command)}: {done.reason}", _OTHER_IMAGE
            )
    branch = _loaded_branch()
    if branch is not None:
        install([f"nvidia-utils-{branch}-server"], tell)
    if not nvidia_answers():
        raise PayloadError("NVIDIA's driver was installed, but nvidia-smi does not answer", _OTHER_IMAGE)
    return "installed"


_OTHER_IMAGE = "launch from an image that brings the driver"


def _loaded_branch(version: Path = Path("/proc/driver/nvidia/version")) -> Optional[str]:
    """The driver's branch (`570`), which the tools must match; None where no driver is loaded."""
    try:
        found = re.search(r"\s(\d{3})\.\d", version.read_text())
    except OSError:
        return None
    return found.group(1) if found else None


def power_off() -> bool:
    """Power the host off; True where a command for it was found and took it."""
    for command in (as_root(["shutdown", "-P", "now"]), ["shutdown", "-P", "now"]):
        try:
            if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0:
                return True
        except OSError:
            continue
    return False
