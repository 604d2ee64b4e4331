"""The user-data that every host boots with: its deadline before all else, then its identity and the caller's key.

The text is cloud-config in JSON, which is YAML with no indentation to get wrong. `bootcmd` runs on every boot, before
D-Bus and logind are up: there `shutdown HH:MM` sets nothing and `systemd-run` hangs the boot, so the deadline is a
detached loop that compares the clock with an absolute time. A second loop ends the host sooner where the payload says
so, or where nobody is left on the host who could: what it reads is the host's user's, and it holds up no deadline.
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
_OFF = "systemctl poweroff; sleep 60; poweroff -ff"
_WAIT = f'while [ "$(date +%s)" -lt "$1" ]; do sleep 5; done; {_OFF}'

UNUSED_S = 30 * 60
"""A host that nobody has asked to be provisioned for so long after its boot was left by whoever launched it.

The payload alone lies on it sooner, while the laptop still packs: `provision` makes `~/gpuctl/run`, and sets an end.
"""

POWER_OFF_MARK = "gpuctl-power-off"
"""The name of the second loop's process: `gpuctl-power-off USER`."""

# Files of ~/gpuctl/run, docs/payload.md: `power-off-at`, seconds since the epoch; `power-off-if-alone`, seconds after
# the end of whoever holds `lock` (the supervisor), a reboot included. Ticks and not the clock count the latter: a young
# host's clock may jump. The user may not exist yet at the first boot; an embedded host has a HOME and no user.
_WATCH = f"""\
number() {{ [ -f "$1" ] && head -c 10 "$1" | tr -dc 0-9; }}
alone=0 seen=
while sleep 5; do
case "${{HOME:-/}}" in / | /root) home=$(getent passwd "$1" | cut -d: -f6) ;; *) home=$HOME ;; esac
run=$home/gpuctl/run at=$(number "$home/gpuctl/run/power-off-at") after=$(number "$home/gpuctl/run/power-off-if-alone")
[ -d "$run" ] && seen=1
[ -n "$seen" ] || after={UNUSED_S}
if [ -f "$run/lock" ] && ! flock -n -s "$run/lock" true; then after=; fi
if [ -n "$after" ]; then alone=$((alone + 5)); else alone=0; fi
if [ "${{at:-9999999999}}" -le "$(date +%s)" ] || [ "$alone" -ge "${{after:-9999999999}}" ]; then {_OFF}; fi
done"""


def _detached(script: str, words: str) -> str:
    # macOS, where an embedded host may be, has no setsid; there the loop outlives its parent all the same.
    return f"$(command -v setsid || echo env) sh -c '{script}' {words} </dev/null >/dev/null 2>&1 &"


_ARM = f"""\
{{ {_ESCAPE}; }} 2>/dev/null; {_detached(_WAIT, f'{DEADLINE_MARK} "$1" "$2"')}
{_detached(_WATCH, f'{POWER_OFF_MARK} "$3"')}"""
_NO_UPGRADES = "systemctl mask unattended-upgrades.service apt-daily.timer apt-daily-upgrade.timer"


@dataclass(frozen=True)
class BootKeys:
    """The host's SSH key pair, made on the laptop and pinned there, and the caller's public key. OpenSSH's formats."""

    host_private: str
    host_public: str
    caller_public: str


def user_data(*, run: str, deadline: datetime, keys: BootKeys, login_user: str = "ubuntu") -> str:
    """The user-data of a run's hosts, as text (EC2 takes it in base64, at most 16 KB before that).

    `login_user` is the user of the image in whose home the payload will be.
    """
    end = str(int(deadline.timestamp()))
    config = {
        "bootcmd": [
            ["sh", "-c", _ARM, "boot", end, run, login_user],
            ["sh", "-c", f"{_NO_UPGRADES} || true"],
        ],
        "ssh_deletekeys": True,
        "ssh_pwauth": False,
        "ssh_keys": {"ed25519_private": keys.host_private, "ed25519_public": keys.host_public},
        "ssh_authorized_keys": [keys.caller_public],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
