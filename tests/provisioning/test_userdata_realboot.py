"""The very user-data, and the payload, under the real systemd and the real cloud-init.

`GPUCTL_REALBOOT` names a program that boots a machine: `REALBOOT USER-DATA --seconds N --then SCRIPT` boots a Linux
with systemd and cloud-init, gives it the user-data, runs SCRIPT in it on every boot once cloud-init is done, prints
what SCRIPT printed, and `# powered off N s after its first boot` where the machine powered itself off within the time.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from payload_host import RUN

from gpuctl.core.boot import BootKeys, user_data

REALBOOT = os.environ.get("GPUCTL_REALBOOT")

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(not REALBOOT, reason="GPUCTL_REALBOOT names no program that boots a machine"),
]


def pair() -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


class Machine:
    """User-data with a deadline in so many seconds, and what a machine said that booted it."""

    def __init__(self, folder: Path, lives_s: float) -> None:
        host_private, self.host_public = pair()
        _, self.caller_public = pair()
        self.deadline = datetime.now(timezone.utc) + timedelta(seconds=lives_s)
        keys = BootKeys(host_private=host_private, host_public=self.host_public, caller_public=self.caller_public)
        self.text = user_data(run=RUN, deadline=self.deadline, keys=keys, login_user="debian")
        self._path = folder / "user-data"

    def boot(self, script: str, seconds: float) -> str:
        assert REALBOOT is not None
        self._path.write_text(self.text)
        command = [*shlex.split(REALBOOT), str(self._path), "--seconds", str(seconds), "--then", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 900, check=False)
        return done.stdout

    def lived_s(self, said: str) -> float:
        """Seconds from the first boot to the power-off."""
        found = re.search(r"^# powered off (\d+) s after its first boot", said, re.MULTILINE)
        assert found is not None, said
        return float(found.group(1))


def test_it_ends_at_its_deadline_also_after_a_reboot(tmp_path: Path) -> None:
    """On both boots the host key is the pinned one, the caller's key is in, upgrades are off; it ends in time."""
    machine = Machine(tmp_path, 100)
    script = (
        "cat /etc/ssh/ssh_host_ed25519_key.pub; echo; ls /etc/ssh/*_key; cat /home/*/.ssh/authorized_keys\n"
        "systemctl is-enabled unattended-upgrades.service apt-daily.timer apt-daily-upgrade.timer\n"
        "pgrep -af gpuctl-deadline | grep -o 'gpuctl-deadline [0-9]* .*'\n"
        "test -e /rebooted || { touch /rebooted; systemctl reboot; }"
    )
    began = time.time()
    said = machine.boot(script, 150)
    ended = began + machine.lived_s(said)
    armed = f"gpuctl-deadline {int(machine.deadline.timestamp())} {RUN}"
    assert said.count("cloud-init: status: done") == 2
    assert said.count(machine.host_public) == 2
    assert said.count(machine.caller_public) == 2
    assert said.count("/etc/ssh/ssh_host_ed25519_key\n") == 2
    assert "ssh_host_rsa_key" not in said
    assert said.count("masked") == 6
    assert said.count(armed) == 2
    assert -2 <= ended - machine.deadline.timestamp() <= 20


def test_it_ends_at_its_deadline_though_its_boot_fails(tmp_path: Path) -> None:
    """With every later step of the boot failing, cloud-init's units with them, the host still ends by itself."""
    machine = Machine(tmp_path, 25)
    head, _, body = machine.text.partition("\n")
    config = json.loads(body)
    config["bootcmd"] += [["false"], ["sh", "-c", "exit 7"], ["/no/such"]]
    config.update(
        users="nonsense",
        runcmd=[["false"], ["/no/such"]],
        packages=["no-such-package"],
        write_files=[{"path": "/proc/nope/x", "content": "x"}],
        disk_setup={"x": 3},
        ntp=5,
    )
    machine.text = f"{head}\n{json.dumps(config)}\n"
    said = machine.boot("true", 60)
    assert "failed: cloud-init.service" in said
    assert 20 <= machine.lived_s(said) <= 45


def test_a_boot_after_the_deadline_ends_at_once(tmp_path: Path) -> None:
    """A host that comes up when its time is over powers off while it boots."""
    machine = Machine(tmp_path, -5)
    assert machine.lived_s(machine.boot("true", 60)) <= 20


def test_the_payload_takes_a_run_to_its_end(host_pyz: Path, tmp_path: Path) -> None:
    """As the default user, with the real tmux, logind and sudo: provision, train, tell, and power off once idle."""
    machine = Machine(tmp_path, 120)
    request = {
        "schema": 1,
        "run": RUN,
        "deadline": machine.deadline.timestamp(),
        "requirements": [],
        "command": ["python", "-c", "print('trained')"],
        "gpu": True,
        "idle_s": 1,
        "files": False,
    }
    # As over SSH: `su` gives the user a session of its own, and ends it after each call.
    script = (
        f"echo {base64.b64encode(host_pyz.read_bytes()).decode()} | base64 -d >/tmp/host.pyz; chmod 755 /tmp/host.pyz\n"
        f'call() {{ echo "$2" | su - "$(ls /home)" -c "python3 /tmp/host.pyz $1"; }}\n'
        f"call provision {shlex.quote(json.dumps(request))}\n"
        """call start '{"schema": 1}'; sleep 2; call state '{"schema": 1}'; call manifest '{"schema": 1}'\n"""
        """call receipt '{"schema": 1, "files": 1, "bytes": 8, "at": 1, "over": true}'; sleep 20"""
    )
    said = machine.boot(script, 90)
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    told = {event["event"]: event for event in events}
    assert told["provisioned"]["environment"] == "found", said
    assert told["state"]["state"] == "succeeded"
    assert told["state"]["deadline_armed"] is True
    assert told["manifest"]["state"]["state"] == "succeeded"
    assert not [event for event in events if event.get("kind") == "running"], said
    assert told["receipt"]["final"] is True
    assert machine.lived_s(said) < 60


AS_THE_USER = (
    "echo {payload} | base64 -d >/tmp/host.pyz; chmod 755 /tmp/host.pyz\n"
    'call() {{ echo "$2" | su - "$(ls /home)" -c "python3 /tmp/host.pyz $1"; }}\n'
)


def request(machine: Machine, command: list[str], **more: object) -> str:
    """A `provision` request, quoted for a shell."""
    asked = {"schema": 1, "run": RUN, "deadline": machine.deadline.timestamp(), "requirements": [], "command": command}
    return shlex.quote(json.dumps({**asked, "gpu": False, "files": False, "idle_s": 1, **more}))


def test_a_host_that_was_restarted_still_ends_once_its_outputs_are_home(host_pyz: Path, tmp_path: Path) -> None:
    """A crash and restart: no supervisor runs, the run is told as interrupted by it, and a receipt lets the host go."""
    machine = Machine(tmp_path, 240)
    script = AS_THE_USER.format(payload=base64.b64encode(host_pyz.read_bytes()).decode()) + (
        "if test ! -e /rebooted; then touch /rebooted\n"
        f"call provision {request(machine, ['sleep', '600'], idle_s=8)}\n"
        """call start '{"schema": 1}'; sync; systemctl reboot --force --force\n"""
        """else call state '{"schema": 1}'; call manifest '{"schema": 1}'\n"""
        """call receipt '{"schema": 1, "files": 1, "bytes": 8, "at": 1, "over": true}'; date +at:%s; fi"""
    )
    began = time.time()
    said = machine.boot(script, 240)
    ended = began + machine.lived_s(said)
    state = next(e for e in map(json.loads, re.findall(r"^\{.*\}$", said, re.MULTILINE)) if e["event"] == "state")
    assert (state["state"], state["exit_code"]) == ("failed", None), said
    assert state["why"] == "its host was restarted meanwhile"
    home = int(re.findall(r"^at:(\d+)", said, re.MULTILINE)[-1])
    assert 5 <= ended - home <= 60, said
    assert ended < machine.deadline.timestamp() - 20


def test_a_host_that_may_drop_its_outputs_ends_in_time_though_it_was_restarted(host_pyz: Path, tmp_path: Path) -> None:
    """With `discard`, restarted by a crash or in order while it trained: it ends as long after as was promised."""
    for restart in ("sync; systemctl reboot --force --force", "systemctl reboot"):
        machine = Machine(tmp_path, 240)
        script = AS_THE_USER.format(payload=base64.b64encode(host_pyz.read_bytes()).decode()) + (
            "date +at:%s; if test ! -e /rebooted; then touch /rebooted\n"
            f"call provision {request(machine, ['sleep', '600'], idle_s=20, discard=True)}\n"
            f"""call start '{{"schema": 1}}'; {restart}; fi"""
        )
        began = time.time()
        said = machine.boot(script, 240)
        ended = began + machine.lived_s(said)
        first, second = map(int, re.findall(r"^at:(\d+)", said, re.MULTILINE))
        assert first + 20 <= ended <= second + 60, said
        assert ended < machine.deadline.timestamp() - 20
