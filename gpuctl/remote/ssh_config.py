"""How a run's hosts are reached, written for `ssh`, `sftp`, `rsync -e` and editors.

It is made from the same values that gpuctl itself connects with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gpuctl.core.hosts import SSHTarget

_SSH_PORT = 22
_PORT = re.compile(r"[0-9]{1,5}")

# What a `Host *` of the user's would add where this file is included above it: no agent goes to a rented host.
_NOTHING_ELSE = (
    "ForwardAgent no",
    "ForwardX11 no",
    "AddKeysToAgent no",
    "PermitLocalCommand no",
    "RemoteCommand none",
    "ControlMaster no",
    "ControlPath none",
)


def render_ssh_config(targets: Sequence[SSHTarget], *, identity_file: Path, known_hosts_file: Path) -> str:
    """An ssh_config with one `Host` block a host: this key and no other, this host key and no other."""
    return "\n".join(_block(target, quoted(identity_file), quoted(known_hosts_file)) for target in targets)


def render_known_hosts(targets: Sequence[SSHTarget], host_public_key: str) -> str:
    """A known_hosts file that pins one key for every host: `address` for port 22, `[address]:port` for any other."""
    kind, key = host_public_key.split()[:2]
    return "".join(f"{known_hosts_name(target)} {kind} {key}\n" for target in targets)


def parse_ssh_config(text: str) -> list[SSHTarget]:
    """The inverse of `render_ssh_config`. A block that is not whole is left out."""
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        word, _, value = line.strip().partition(" ")
        if word == "Host":
            blocks.append({})
        if blocks and value:
            blocks[-1][word] = value
    return [
        SSHTarget(
            alias=block["Host"],
            address=block["HostName"],
            port=int(block["Port"]),
            user=block["User"],
            proxy_command=block.get("ProxyCommand"),
        )
        for block in blocks
        if {"Host", "HostName", "User"} <= block.keys() and _PORT.fullmatch(block.get("Port", ""))
    ]


def known_hosts_name(target: SSHTarget) -> str:
    """The name under which OpenSSH and paramiko look for a host's key."""
    return target.address if target.port == _SSH_PORT else f"[{target.address}]:{target.port}"


def _block(target: SSHTarget, identity: str, known_hosts: str) -> str:
    lines = [
        f"HostName {target.address}",
        f"Port {target.port}",
        f"User {target.user}",
        f"IdentityFile {identity}",
        "IdentitiesOnly yes",
        "IdentityAgent none",
        "PreferredAuthentications publickey",
        f"UserKnownHostsFile {known_hosts}",
        "GlobalKnownHostsFile none",
        "UpdateHostKeys no",
        "StrictHostKeyChecking yes",
        "HostKeyAlgorithms ssh-ed25519",
        "ServerAliveInterval 15",
    ]
    lines.append("ProxyJump none" if target.proxy_command is None else f"ProxyCommand {target.proxy_command}")
    lines.extend(_NOTHING_ELSE)
    return f"Host {target.alias}\n" + "".join(f"    {line}\n" for line in lines)


def quoted(path: Path) -> str:
    """A path as ssh_config reads it back: in quotes, its `%` doubled (ssh expands tokens such as `%d` in paths)."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
