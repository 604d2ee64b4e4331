"""User-data as cloud-init reads it: of cloud-config just the keys that gpuctl writes; all else is passed over by name.

`bootcmd` is joined into one shell script as cloud-init does it: a list is one command's words, a text is shell, and a
command that fails does not stop the next one.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from gpuctl.embedded_cloud.host.shims import POWER_COMMANDS, PRIVILEGED_COMMANDS

_HEADER = "#cloud-config"
_KEYS = ("bootcmd", "ssh_deletekeys", "ssh_pwauth", "ssh_keys", "ssh_authorized_keys")
_HOST_KEYS = ("ed25519_private", "ed25519_public")
_ABSOLUTE = re.compile(
    r"(?<![\w./-])(?:/usr)?/s?bin/("
    + "|".join(map(re.escape, (*POWER_COMMANDS, *PRIVILEGED_COMMANDS)))
    + r")(?![\w./-])"
)


class _NotObeyedError(ValueError):
    """Which part of the user-data this host does not obey."""


@dataclass(frozen=True)
class CloudConfig:
    """What a host is to do at boot. Keys are in OpenSSH's formats; `host_private` None: the host makes its own.

    `not_obeyed` names the parts of the user-data that mean nothing here: the host boots without them, as an EC2
    instance does whose cloud-init knows no better.
    """

    script: str = ""
    host_private: str | None = None
    authorized_keys: tuple[str, ...] = ()
    not_obeyed: tuple[str, ...] = ()


def parse(user_data: str) -> CloudConfig:
    """User-data as a value, whatever it is. None at all is a host that nobody can log in to, as on EC2."""
    if not user_data.strip():
        return CloudConfig()
    try:
        config = _object(user_data)
    except _NotObeyedError as error:
        return CloudConfig(not_obeyed=(str(error),))
    fields: dict[str, Any] = {}
    not_obeyed = []
    for key, value in config.items():
        try:
            fields.update(_read(key, value))
        except _NotObeyedError as error:
            not_obeyed.append(str(error))
    return CloudConfig(**fields, not_obeyed=tuple(not_obeyed))


def _object(user_data: str) -> dict[str, object]:
    header, _, body = user_data.partition("\n")
    if header.strip() != _HEADER:
        raise _NotObeyedError(f"user-data does not begin with {_HEADER}")
    try:
        config = json.loads(body)
    except ValueError as error:
        raise _NotObeyedError(f"user-data is not cloud-config in JSON: {error}") from error
    if not isinstance(config, dict):
        raise _NotObeyedError("cloud-config is not an object")
    return config


def _read(key: str, value: object) -> dict[str, object]:
    """The field of CloudConfig that a key of cloud-config gives; none for a key that a host keeps to anyhow."""
    match key:
        case "bootcmd":
            return {"script": _script(value)}
        case "ssh_keys":
            return {"host_private": _host_key(value)}
        case "ssh_authorized_keys":
            return {"authorized_keys": tuple(_texts(key, value))}
        case "ssh_deletekeys" | "ssh_pwauth":
            if value is False or (value is True and key == "ssh_deletekeys"):
                return {}
            raise _NotObeyedError(f"cloud-config {key} is {value!r}, which a host of this cloud cannot be")
    raise _NotObeyedError(f"cloud-config key {key!r} is not one that a host of this cloud obeys ({', '.join(_KEYS)})")


def relative(command: str) -> str:
    """A command with the absolute paths of power and privileged programs replaced by the names of their stand-ins."""
    return _ABSOLUTE.sub(r"\1", command)


def _host_key(keys: object) -> str | None:
    if not isinstance(keys, dict):
        raise _NotObeyedError("cloud-config ssh_keys is not an object")
    for name, text in keys.items():
        if name not in _HOST_KEYS or not isinstance(text, str):
            raise _NotObeyedError(f"cloud-config ssh_keys {name!r} is not one of {', '.join(_HOST_KEYS)} with a text")
    return keys.get("ed25519_private")


def _script(commands: object) -> str:
    if not isinstance(commands, list):
        raise _NotObeyedError("cloud-config bootcmd is not a list")
    lines = []
    for command in commands:
        if isinstance(command, str):
            lines.append(relative(command))
        else:
            lines.append(shlex.join(relative(word) for word in _texts("bootcmd item", command)))
    return "\n".join(lines)


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _NotObeyedError(f"cloud-config {name} {value!r} is not a list of texts")
    return value
