"""How a host reads its user-data, boots, powers off and boots again."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from host_fixtures import Hosts, eventually
from host_fixtures import hosts as hosts

from gpuctl.core.boot import BootKeys, user_data
from gpuctl.embedded_cloud.host import shims
from gpuctl.embedded_cloud.host.boot import CloudConfig, parse, relative


def config_text(**keys: Any) -> str:
    return "#cloud-config\n" + json.dumps(keys)


def test_gpuctls_own_user_data_is_understood() -> None:
    """What a launch writes is what a host obeys: script, host key, caller's key."""
    text = user_data(
        run="r", deadline=datetime.now(timezone.utc), keys=BootKeys("private\n", "public", "ssh-ed25519 AAAA me")
    )
    config = parse(text)
    assert config.host_private == "private\n"
    assert config.authorized_keys == ("ssh-ed25519 AAAA me",)
    assert "gpuctl-deadline" in config.script
    assert config.not_obeyed == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (config_text(runcmd=["true"]), "runcmd"),
        (config_text(write_files=[]), "write_files"),
        (config_text(ssh_pwauth=True), "ssh_pwauth"),
        (config_text(ssh_keys={"rsa_private": "x"}), "rsa_private"),
        (config_text(ssh_authorized_keys="ssh-ed25519 AAAA"), "ssh_authorized_keys"),
        (config_text(bootcmd="true"), "bootcmd"),
        (config_text(bootcmd=[["true", 1]]), "bootcmd"),
        ("#cloud-config\nbootcmd: [true]\n", "JSON"),
        ("#!/bin/sh\ntrue\n", "#cloud-config"),
        ("#cloud-config\n[]", "object"),
    ],
)
def test_user_data_that_is_not_obeyed_is_passed_over_by_name(text: str, named: str) -> None:
    """Nothing in user-data is passed over in silence."""
    (part,) = parse(text).not_obeyed
    assert named in part


def test_what_is_understood_is_obeyed_beside_what_is_not() -> None:
    """As cloud-init does: a key that it does not know keeps nobody out."""
    config = parse(config_text(runcmd=["true"], bootcmd=["echo"], ssh_authorized_keys=["ssh-ed25519 AAAA me"]))
    assert (config.script, config.authorized_keys, len(config.not_obeyed)) == ("echo", ("ssh-ed25519 AAAA me",), 1)


def test_no_user_data_is_a_host_without_a_caller() -> None:
    """EC2 starts an instance without user-data, and so does this cloud."""
    assert parse(" \n") == CloudConfig()


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        ("/sbin/shutdown -P now", "shutdown -P now"),
        ("sleep 1; /usr/sbin/poweroff -ff", "sleep 1; poweroff -ff"),
        ("/bin/systemctl poweroff", "systemctl poweroff"),
        ("/usr/bin/sudo /sbin/reboot", "sudo reboot"),
        ("x=/sbin/halt", "x=halt"),
        ("/sbin/shutdown.sh", "/sbin/shutdown.sh"),
        ("/opt/sbin/shutdown", "/opt/sbin/shutdown"),
        ("/usr/bin/env true", "/usr/bin/env true"),
    ],
)
def test_absolute_power_commands_become_the_stand_ins(command: str, becomes: str) -> None:
    """A path that is written out does not go past the stand-ins to the laptop's own program."""
    assert relative(command) == becomes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (config_text(runcmd=["true"]), "runcmd"),
        ("\x1f\ufffd binary \x00", "#cloud-config"),
        (config_text(ssh_keys={"ed25519_private": "no key"}), "a key in the user-data cannot be read"),
    ],
)
def test_a_host_runs_whatever_its_user_data_is(hosts: Hosts, text: str, said: str) -> None:
    """It boots, as an EC2 instance does, and says what it has passed over."""
    host = hosts.start(text=text, wait=False)
    assert said in host.expect("boot-warning")["message"]
    host.expect("booted")


def test_a_disk_that_cannot_be_made_is_a_boot_error(hosts: Hosts, tmp_path: Path) -> None:
    """What this machine refuses is told by the host, not by a traceback."""
    (tmp_path / "hosts").write_text("a file where the folder of hosts should be")
    host = hosts.start(wait=False)
    assert "does not let the host run" in host.expect("boot-error")["message"]
    host.expect("ended")


def test_bootcmd_runs_in_order_and_a_failing_one_stops_nothing(hosts: Hosts) -> None:
    """Lists are words, texts are shell, output goes where cloud-init's goes."""
    words = ["sh", "-c", 'echo "$1" $INSTANCE_ID', "sh", "it's one; word"]
    host = hosts.start(bootcmd=["echo first > order", ["false"], "no-such-program", words, "echo last >> order"])
    assert (host.home / "order").read_text() == "first\nlast\n"
    log = (host.disk / "var/log/cloud-init-output.log").read_text()
    assert f"it's one; word {host.mark}\n" in log
    assert "no-such-program" in log


def test_a_processs_environment_is_the_images_and_nothing_of_the_laptops(hosts: Hosts) -> None:
    """At boot and in a session: HOME, PATH, metadata address; no variable from outside."""
    host = hosts.start(bootcmd=["env > boot-env"])
    for text in ((host.home / "boot-env").read_text(), host.run("env")[1]):
        variables = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        assert "the laptop's" not in text
        assert variables["IMAGE_SAYS"] == "hello"
        assert variables["HOME"] == str(host.home)
        assert variables["AWS_EC2_METADATA_SERVICE_ENDPOINT"] == host.config["imds_url"]
        assert not {name for name in variables if name.startswith("AWS_")} - {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            "AWS_EC2_METADATA_DISABLED",
        }
        assert "PYTHONPATH" not in variables
        assert len(variables["TMUX_TMPDIR"]) < 60
        assert variables["PATH"].endswith(host.config["env"]["PATH"])


def test_ssh_answers_once_the_boot_script_has_run(hosts: Hosts) -> None:
    """A boot script that takes its time holds the banner back, and a hanging one still ends with the host."""
    host = hosts.start(bootcmd=["touch here", "sleep 1000"], wait=False)
    eventually((host.home / "here").exists)
    assert host.process.stdin
    host.process.stdin.close()
    assert host.expect("ended")["reason"] == "lifeline"


@pytest.mark.parametrize(
    "command",
    [
        "shutdown -P now",
        "/sbin/shutdown -h now",
        "poweroff -ff",
        "systemctl --no-block poweroff",
        "sudo -n shutdown -P now",
        "sudo /usr/sbin/halt",
        "init 0",
        'env -i /bin/sh -c "$(command -v poweroff)"',
    ],
)
def test_a_power_off_ends_this_host(hosts: Hosts, command: str) -> None:
    """Every way that gpuctl or a person has to power off is the host's own."""
    host = hosts.start(bootcmd=[command, "sleep 1000"], wait=False)
    assert host.expect("ended")["reason"] == "poweroff"
    assert host.process.wait() == 0


def test_the_deadline_powers_the_host_off(hosts: Hosts) -> None:
    """gpuctl's own boot script, with nobody connected: the host ends at its lease's end, had it booted or not."""
    began = time.time()
    host = hosts.start(lease_s=2, wait=False)
    while (event := host.next_event(60)) == {"event": "booted"}:
        assert time.time() - began < 60
    assert event == {"event": "ended", "reason": "poweroff"}
    assert time.time() - began > 1.0


def test_a_reboot_keeps_the_pinned_key_and_runs_bootcmd_again(hosts: Hosts) -> None:
    """What ran is gone, what was written is there, the address and the key are the same."""
    host = hosts.start(bootcmd=["date +%s.%N >> boots"])
    assert host.run("setsid sleep 654321 >/dev/null 2>&1 & echo kept > file")[0] == 0
    host.run("sudo reboot; sleep 60")
    host.expect("rebooting")
    host.expect("booted")
    assert host.run("cat file") == (0, "kept\n")
    assert len((host.home / "boots").read_text().splitlines()) == 2
    assert host.run("pgrep -f 'sleep 65432[1]'")[0] == 1


def test_a_host_that_reboots_without_end_is_ended(hosts: Hosts) -> None:
    """A boot script that reboots does not keep the laptop busy for ever."""
    host = hosts.start(bootcmd=["echo >> boots", "reboot", "sleep 1000"], wait=False)
    events = []
    while (event := host.next_event()) is not None:
        events.append(event)
    assert events[-1] == {"event": "ended", "reason": "reboot"}
    assert len((host.home / "boots").read_text()) == 10


def test_hosts_without_user_data_keep_the_key_that_they_make(hosts: Hosts) -> None:
    """The key is made at the first boot and nobody can log in."""
    host = hosts.start(text="")
    made = (host.disk / "etc/ssh/ssh_host_ed25519_key").read_text()
    assert "OPENSSH PRIVATE KEY" in made


@pytest.fixture
def stand_ins(tmp_path: Path) -> Any:
    """Runs a command with the stand-ins first on PATH; answers exit code, output, and what was asked of the pipe."""
    pipe = tmp_path / "pipe"
    pipe.touch()  # a plain file takes what a named pipe would
    shims.write(tmp_path / "bin", pipe=pipe, path=os.environ["PATH"])
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def run(*command: str) -> tuple[int, str, str]:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr, pipe.read_text()

    return run


def test_stand_ins_answer_as_the_payload_expects(stand_ins: Any) -> None:
    """sudo runs, systemctl masks, apt-get updates; what is not here cannot be installed."""
    assert stand_ins("sudo", "-n", "-E", "A=b", "sh", "-c", "echo $A") == (0, "b\n", "")
    assert stand_ins("sudo", "-u", "ubuntu", "--", "echo", "-n", "x") == (0, "x", "")
    assert stand_ins("sudo", "-n", "true")[0] == 0
    assert stand_ins("sudo", "false")[0] == 1
    assert stand_ins("systemctl", "mask", "a.service", "b.timer") == (0, "", "")
    assert stand_ins("systemctl", "is-active", "a.service")[0] == 3
    assert stand_ins("apt-get", "-q", "update")[0] == 0
    assert stand_ins("apt-get", "-o", "DPkg::Lock::Timeout=60", "install", "-y", "sh", "tar")[0] == 0
    code, text, _ = stand_ins("apt-get", "install", "-y", "sh", "no-such-package")
    assert (code, "no-such-package" in text) == (100, True)
    assert stand_ins("apt-get", "-y", "upgrade")[0] == 100


def test_a_shutdown_that_is_not_now_is_refused(stand_ins: Any) -> None:
    """As at a real boot, `shutdown HH:MM` sets no deadline; here it says so."""
    for when in (["+5"], ["-P", "23:00"], []):
        code, text, asked = stand_ins("shutdown", *when)
        assert (code, asked) == (1, "")
        assert "now" in text
    assert stand_ins("shutdown", "-c") == (0, "", "")
    assert stand_ins("shutdown", "-r", "now")[2] == "reboot\n"
