"""User-data as cloud-init reads it: of cloud-config exactly the keys that gpuctl writes, any other is an error.

`bootcmd` is joined into one shell script as cloud-init does it: a list is one command's words, a text is shell, and a
command that fails does not stop the next one.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from gpuctl.embedded_cloud.host.shims import POWER_COMMANDS, PRIVILEGED_COMMANDS

_HEADER = "#cloud-config"
_KEYS = ("bootcmd", "ssh_deletekeys", "ssh_pwauth", "ssh_keys", "ssh_authorized_keys")
_HOST_KEYS = ("ed25519_private", "ed25519_public")
_ABSOLUTE = re.compile(
    r"(?<![\w./-])(?:/usr)?/s?bin/("
    + "|".join(map(re.escape, (*POWER_COMMANDS, *PRIVILEGED_COMMANDS)))
    + r")(?![\w./-])"
)


class BootError(ValueError):
    """User-data that this host does not obey, and which part of it."""


@dataclass(frozen=True)
class CloudConfig:
    """What a host is to do at boot. Keys are in OpenSSH's formats; `host_private` None: the host makes its own."""

    script: str = ""
    host_private: str | None = None
    authorized_keys: tuple[str, ...] = ()


def parse(user_data: str) -> CloudConfig:
    """User-data as a value. None at all is a host that nobody can log in to, as on EC2. Raises BootError."""
    if not user_data.strip():
        return CloudConfig()
    header, _, body = user_data.partition("\n")
    if header.strip() != _HEADER:
        raise BootError(f"user-data does not begin with {_HEADER}")
    try:
        config = json.loads(body)
    except ValueError as error:
        raise BootError(f"user-data is not cloud-config in JSON: {error}") from error
    if not isinstance(config, dict):
        raise BootError("cloud-config is not an object")
    for key in config:
        if key not in _KEYS:
            raise BootError(f"cloud-config key {key!r} is not one that a host of this cloud obeys ({', '.join(_KEYS)})")
    return CloudConfig(
        script=_script(config.get("bootcmd", [])),
        host_private=_host_key(config),
        authorized_keys=tuple(_texts("ssh_authorized_keys", config.get("ssh_authorized_keys", []))),
    )


def relative(command: str) -> str:
    """A command with the absolute paths of power and privileged programs replaced by the names of their stand-ins."""
    return _ABSOLUTE.sub(r"\1", command)


def _host_key(config: dict[str, object]) -> str | None:
    for key, only in (("ssh_deletekeys", (True, False)), ("ssh_pwauth", (False,))):
        if key in config and config[key] not in only:
            raise BootError(f"cloud-config {key} is {config[key]!r}; a host of this cloud knows {only}")
    keys = config.get("ssh_keys", {})
    if not isinstance(keys, dict):
        raise BootError("cloud-config ssh_keys is not an object")
    for name, text in keys.items():
        if name not in _HOST_KEYS or not isinstance(text, str):
            raise BootError(f"cloud-config ssh_keys {name!r} is not one of {', '.join(_HOST_KEYS)} with a text")
    return keys.get("ed25519_private")


def _script(commands: object) -> str:
    if not isinstance(commands, list):
        raise BootError("cloud-config bootcmd is not a list")
    lines = []
    for command in commands:
        if isinstance(command, str):
            lines.append(relative(command))
        else:
            lines.append(shlex.join(relative(word) for word in _texts("bootcmd item", command)))
    return "\n".join(lines)


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BootError(f"cloud-config {name} {value!r} is not a list of texts")
    return value
