"""What an embedded image brings: the environment that its hosts' processes have.

An embedded host has no GPU: packages come from where this machine takes its own, else PyTorch's from its CPU index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_KEPT = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "LD_LIBRARY_PATH",
    "TERMINFO_DIRS",
)
_SYSTEM = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def image_environment(environ: Mapping[str, str], *, cache: Path, tools: Path) -> dict[str, str]:
    """The environment of every process on every host of this cloud.

    `cache` is shared by all hosts and outlives them; `tools` is a folder of the cloud's own, for links to programs.
    """
    pip = _pip(environ)
    return {
        "LANG": environ.get("LANG") or "C.UTF-8",
        "PATH": _path(environ, tools=tools),
        "GPUCTL_ENVIRONMENTS": str(cache / "environments"),
        **{name: value for name, value in environ.items() if name.upper() in _KEPT},
        **pip,
    }


def base_python() -> Path:
    """The interpreter below any virtualenv: one that has the standard library's venv."""
    base = getattr(sys, "_base_executable", "") or sys.executable
    named = Path(sysconfig.get_config_var("BINDIR") or "") / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return Path(base) if Path(base).exists() else named


def _path(environ: Mapping[str, str], *, tools: Path) -> str:
    """Where programs are found: this cloud's Python as `python3`, the user's tmux, the system's."""
    tools.mkdir(mode=0o700, parents=True, exist_ok=True)
    _link(tools / "python3", base_python())
    found = shutil.which("tmux", path=environ.get("PATH"))
    if found:
        _link(tools / "tmux", Path(found))
    return os.pathsep.join((str(tools), _SYSTEM))


def _link(link: Path, target: Path) -> None:
    """A small script rather than a link: a virtualenv made by it must name the real interpreter, not this folder."""
    link.unlink(missing_ok=True)
    link.write_text(f'#!/bin/sh\nexec "{target}" "$@"\n', encoding="utf-8")
    link.chmod(0o755)


def _pip(environ: Mapping[str, str]) -> dict[str, str]:
    settings = {name: value for name, value in environ.items() if name.startswith("PIP_")}
    if "PIP_CONFIG_FILE" not in settings:
        own = _own_pip_conf(environ)
        if own is not None:
            settings["PIP_CONFIG_FILE"] = str(own)
    if not settings and not _pip_is_configured():
        settings["PIP_EXTRA_INDEX_URL"] = CPU_INDEX
    return settings


def _own_pip_conf(environ: Mapping[str, str]) -> Path | None:
    """The user's own pip.conf, which a host would not find, as its HOME is another one.

    https://pip.pypa.io/en/stable/topics/configuration/: the last that is there wins.
    """
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = (config / "pip/pip.conf", home / "Library/Application Support/pip/pip.conf", home / ".pip/pip.conf")
    return next((place for place in places if place.is_file()), None)


def _pip_is_configured() -> bool:
    """Whether the machine has pip settings of its own (`pip config list`), such as an /etc/pip.conf."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return bool(listing.stdout.strip())
