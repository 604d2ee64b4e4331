"""The user-data that every host boots with: its deadline before all else, then its identity and the caller's key.

The text is cloud-config in JSON, which is YAML with no indentation to get wrong. `bootcmd` runs on every boot, before
D-Bus and logind are up: there `shutdown HH:MM` sets nothing and `systemd-run` hangs the boot, so the deadline is a
detached loop that compares the clock with an absolute time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

DEADLINE_MARK = "gpuctl-deadline"
"""The name of the deadline's process: `gpuctl-deadline END RUN`, with END in seconds since the epoch."""

# Where a later step of the boot fails, systemd ends every process of cloud-init's unit, and the deadline with them: so
# the loop moves to PID 1's own group first, by whichever hierarchy of control groups there is. An embedded host's boot
# is in no unit of cloud-init's, and moves nowhere.
_ESCAPE = (
    r"if grep -qE '/cloud-init[a-z-]*\.service' /proc/self/cgroup; then "
    "for g in '' /systemd /unified; do echo $$ >/sys/fs/cgroup$g/init.scope/cgroup.procs; done; fi"
)
_WAIT = 'while [ "$(date +%s)" -lt "$1" ]; do sleep 5; done; systemctl poweroff; sleep 60; poweroff -ff'
# macOS, where an embedded host may be, has no setsid; there the loop outlives its parent all the same.
_DETACHED = (
    f"""$(command -v setsid || echo env) sh -c '{_WAIT}' {DEADLINE_MARK} "$1" "$2" </dev/null >/dev/null 2>&1 &"""
)
_ARM = f"{{ {_ESCAPE}; }} 2>/dev/null; {_DETACHED}"
_NO_UPGRADES = "systemctl mask unattended-upgrades.service apt-daily.timer apt-daily-upgrade.timer"


@dataclass(frozen=True)
class BootKeys:
    """The host's SSH key pair, made on the laptop and pinned there, and the caller's public key. OpenSSH's formats."""

    host_private: str
    host_public: str
    caller_public: str


def user_data(*, run: str, deadline: datetime, keys: BootKeys) -> str:
    """The user-data of a run's hosts, as text (EC2 takes it in base64, at most 16 KB before that)."""
    end = str(int(deadline.timestamp()))
    config = {
        "bootcmd": [
            ["sh", "-c", _ARM, "boot", end, run],
            ["sh", "-c", f"{_NO_UPGRADES} || true"],
        ],
        "ssh_deletekeys": True,
        "ssh_pwauth": False,
        "ssh_keys": {"ed25519_private": keys.host_private, "ed25519_public": keys.host_public},
        "ssh_authorized_keys": [keys.caller_public],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
