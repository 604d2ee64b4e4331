"""What an embedded image brings: the environment that its hosts' processes have.

An embedded host has no GPU: packages come from where this machine takes its own, else PyTorch's from its CPU index.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gpuctl.core.interpreter import module_command
from gpuctl.embedded_cloud.pythons import Python

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
# Of pip's settings those that say where to install, or with which Python: the laptop's, which is not a host's.
_NOT_OF_A_HOST = (
    "PIP_PYTHON",
    "PIP_PREFIX",
    "PIP_TARGET",
    "PIP_ROOT",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_PYTHON_VERSION",
    "PIP_IMPLEMENTATION",
    "PIP_ABI",
    "PIP_PLATFORM",
)
_SYSTEM = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def image_environment(environ: Mapping[str, str], *, python: Python, cache: Path, tools: Path) -> dict[str, str]:
    """The environment of every process on every host that boots from the image with this `python`.

    `cache` is shared by all hosts and outlives them; `tools` is a folder of the image's own, for links to programs.
    """
    pip = _pip(environ)
    return {
        "LANG": environ.get("LANG") or "C.UTF-8",
        "PATH": _path(environ, python, tools=tools),
        "GPUCTL_ENVIRONMENTS": str(cache / "environments"),
        **{name: value for name, value in environ.items() if name.upper() in _KEPT},
        **pip,
    }


def _path(environ: Mapping[str, str], python: Python, *, tools: Path) -> str:
    """Where programs are found: the image's Python and its pip, the user's tmux, the system's."""
    tools.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("python", "python3", f"python{python.minor}"):
        _link(tools / name, python.path)
    for name in ("pip", "pip3", f"pip{python.minor}"):
        _link(tools / name, *module_command(python.path, "pip"))
    found = shutil.which("tmux", path=environ.get("PATH"))
    if found:
        _link(tools / "tmux", found)
    return os.pathsep.join((str(tools), _SYSTEM))


def _link(link: Path, *command: str) -> None:
    """A small script rather than a link: a virtualenv made by it must name the real interpreter, not this folder."""
    link.unlink(missing_ok=True)
    link.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    link.chmod(0o700)


def _pip(environ: Mapping[str, str]) -> dict[str, str]:
    named = {name: value for name, value in environ.items() if name.startswith("PIP_")}
    settings = {name: value for name, value in named.items() if name not in _NOT_OF_A_HOST}
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
        module_command(sys.executable, "pip", "config", "list"),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return bool(listing.stdout.strip())
