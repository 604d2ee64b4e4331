"""Where a host keeps what, and the environment that everything on it starts with.

The disk outlives a reboot and becomes an image; the run folder lives from one boot to the next. The run folder's
path is short because a tmux socket below it may have 107 bytes (macOS: 103).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpuctl.embedded_cloud.host import shims
from gpuctl.embedded_cloud.host.config import HostConfig

MARK_VARIABLE = "GPUCTL_HOST_MARK"
_PATH_VARIABLE = "GPUCTL_HOST_PATH"
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LONGEST_TEMP = 60
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# A login shell (each new tmux window is one) reads /etc/profile, which sets PATH anew: the stand-ins come back here.
_PROFILE = f'[ -n "${_PATH_VARIABLE}" ] && PATH=${_PATH_VARIABLE} && export PATH\n'


def home(config: HostConfig) -> Path:
    """The host's HOME."""
    return config.disk / "home"


def log(config: HostConfig, name: str) -> Path:
    """A file of the host's `/var/log`."""
    return config.disk / "var" / "log" / name


def power_pipe(run_folder: Path) -> Path:
    """The named pipe by which the stand-ins ask for power."""
    return run_folder / "power"


def make_disk(config: HostConfig) -> None:
    """Makes what of the disk is not there yet: a disk that an image restored keeps what it has."""
    for folder in (home(config), log(config, "x").parent):
        folder.mkdir(parents=True, exist_ok=True)
    config.disk.chmod(0o700)
    profile = home(config) / ".profile"
    if not os.path.lexists(profile):
        profile.write_text(_PROFILE)


def make_run_folder(config: HostConfig) -> Path:
    """A new run folder: temporary files, tmux's sockets, stand-ins, and the pipe that these write to."""
    folder = Path(tempfile.mkdtemp(prefix=_prefix(config.mark), dir=_temp()))
    (folder / "tmp").mkdir(mode=0o700)
    os.mkfifo(power_pipe(folder), mode=0o600)
    shims.write(folder / "bin", pipe=power_pipe(folder), path=_image_path(config))
    return folder


def run_folders(mark: str) -> Iterator[Path]:
    """Run folders that a host with this mark has left, this user's own alone."""
    for folder in _temp().glob(_prefix(mark) + "*"):
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            yield folder


def remove_run_folder(folder: Path) -> None:
    """Removes it whole; what is already gone is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def environment(config: HostConfig, run_folder: Path, *, user: str) -> dict[str, str]:
    """The whole environment of a process on the host: the image's and the host's own, nothing of the laptop's."""
    path = f"{run_folder / 'bin'}:{_image_path(config)}"
    name = user if _USER_NAME.fullmatch(user) else "ubuntu"
    return {
        "LANG": "C.UTF-8",
        **config.env,
        "HOME": str(home(config)),
        "USER": name,
        "LOGNAME": name,
        "SHELL": shell(),
        "PATH": path,
        _PATH_VARIABLE: path,
        "TMPDIR": str(run_folder / "tmp"),
        "TMUX_TMPDIR": str(run_folder),
        "INSTANCE_ID": config.instance_id,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": config.imds_url,
        "AWS_EC2_METADATA_DISABLED": "false",
        "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={run_folder}/no-bus",
        MARK_VARIABLE: config.mark,
    }


def shell() -> str:
    """The login shell of every user: bash, as on the images that gpuctl launches, else the system's own."""
    return "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"


def _image_path(config: HostConfig) -> str:
    return config.env.get("PATH") or _USUAL_PATH


def _prefix(mark: str) -> str:
    return f"gpuctl-{re.sub('[^0-9A-Za-z]', '', mark)[-8:]}-"


def _temp() -> Path:
    temp = Path(tempfile.gettempdir())
    return temp if len(os.fsencode(temp)) <= _LONGEST_TEMP else Path("/tmp")  # noqa: S108 - mkdtemp makes it private
