"""The user-data of a run's hosts, and the deadline that it arms, run here as a plain process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from payload_host import RUN, wait_for

from gpuctl.core.boot import UNUSED_S, BootKeys, user_data
from provisioning.lease import deadline_armed

KEYS = BootKeys(host_private="PRIVATE\n" * 60, host_public="ssh-rsa " + "A" * 720, caller_public="ssh-rsa " + "B" * 720)


def config(deadline: datetime) -> dict[str, Any]:
    head, _, body = user_data(run=RUN, deadline=deadline, keys=KEYS).partition("\n")
    assert head == "#cloud-config"
    read: dict[str, Any] = json.loads(body)
    return read


def test_it_fits_into_what_ec2_takes() -> None:
    """With the largest keys in use and a long name it stays below EC2's 16 KB."""
    text = user_data(run="n" * 63, deadline=datetime.now(timezone.utc), keys=KEYS)
    assert len(text.encode()) < 16 * 1024


def test_the_deadline_is_the_first_thing() -> None:
    """Nothing that a boot does comes before its end is set, and it is set on every boot."""
    first, *_ = config(datetime(2026, 11, 25, 2, 0, tzinfo=timezone.utc))["bootcmd"]
    end = str(int(datetime(2026, 11, 25, 2, 0, tzinfo=timezone.utc).timestamp()))
    assert first[-3:] == [end, RUN, "ubuntu"]


def test_keys_are_put_where_cloud_init_looks() -> None:
    """The host's key pair, and of all keys only the caller's."""
    written = config(datetime.now(timezone.utc))
    assert written["ssh_keys"] == {"ed25519_private": KEYS.host_private, "ed25519_public": KEYS.host_public}
    assert written["ssh_authorized_keys"] == [KEYS.caller_public]
    assert written["ssh_deletekeys"] is True
    assert written["ssh_pwauth"] is False


class Boot:
    """The first command of a boot, with stand-ins for what powers off: nothing here reaches this machine."""

    def __init__(self, folder: Path) -> None:
        self.asked = folder / "asked"
        self.run_folder = folder / "home/gpuctl/run"
        self.run_folder.mkdir(parents=True)
        for command in ("systemctl", "poweroff", "shutdown"):
            path = folder / command
            path.write_text(f'#!/bin/sh\necho "{command} $*" >>"{self.asked}"\n')
            path.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "GPUCTL_TEST_BOOT": str(folder)}
        self.environment["HOME"] = str(folder / "home")
        self.mark = f"GPUCTL_TEST_BOOT={folder}".encode()

    def run(self, deadline: datetime, *, unused_s: int = UNUSED_S) -> None:
        command = [word.replace(f"after={UNUSED_S}", f"after={unused_s}") for word in config(deadline)["bootcmd"][0]]
        subprocess.run(command, env=self.environment, check=True, timeout=10)

    def powered_off(self) -> bool:
        return self.asked.exists() and "systemctl poweroff" in self.asked.read_text()

    def close(self) -> None:
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    it = Boot(tmp_path)
    yield it
    it.close()


def test_the_payload_finds_the_deadline(boot: Boot) -> None:
    """What the boot arms is what `provision` and `state` look for, and only that."""
    deadline = datetime.now(timezone.utc) + timedelta(hours=1)
    assert not deadline_armed(deadline.timestamp(), RUN)
    boot.run(deadline)
    wait_for(lambda: deadline_armed(deadline.timestamp(), RUN))
    assert not deadline_armed(deadline.timestamp() + 60, RUN)
    assert not deadline_armed(deadline.timestamp(), RUN[:-1])
    assert not boot.powered_off()


def test_it_powers_off_at_the_deadline(boot: Boot) -> None:
    """Within five seconds after it, and not before."""
    deadline = datetime.now(timezone.utc) + timedelta(seconds=2)
    boot.run(deadline)
    wait_for(boot.powered_off)
    assert time.time() >= int(deadline.timestamp())


def test_a_boot_after_the_deadline_ends_at_once(boot: Boot) -> None:
    """A host that is started again when its time is over does not stay."""
    boot.run(datetime.now(timezone.utc) - timedelta(minutes=1))
    wait_for(boot.powered_off, 5)


IN_AN_HOUR = timedelta(hours=1)


def in_an_hour() -> datetime:
    return datetime.now(timezone.utc) + IN_AN_HOUR


def test_it_powers_off_sooner_where_the_payload_says_so(boot: Boot) -> None:
    """The file is looked at again and again: it may come later, and it may be put off."""
    boot.run(in_an_hour())
    at = boot.run_folder / "power-off-at"
    at.write_text(f"{int(time.time()) + 3600}\n")
    time.sleep(6)
    assert not boot.powered_off()
    at.write_text(f"{int(time.time()) - 1}\n")
    wait_for(boot.powered_off)


def test_nothing_in_that_file_holds_up_a_host(boot: Boot) -> None:
    """A pipe, a folder, text, an endless file: the deadline comes all the same, and nothing comes before it."""
    made = [boot.run_folder / name for name in ("power-off-at", "power-off-if-alone", "lock")]
    os.mkfifo(made[0])
    os.mkdir(made[1])
    os.mkfifo(made[2])
    deadline = datetime.now(timezone.utc) + timedelta(seconds=8)
    boot.run(deadline)
    time.sleep(6)
    os.rmdir(made[1])
    made[1].symlink_to("/dev/zero")
    made[0].unlink()
    made[0].write_text("soon; $(touch x) `touch y`\n")
    wait_for(boot.powered_off)
    assert time.time() >= int(deadline.timestamp())


def test_a_host_whose_supervisor_is_gone_powers_off_where_that_was_asked_for(boot: Boot) -> None:
    """`power-off-if-alone` counts from the end of whoever held the lock, however that ended."""
    lock = boot.run_folder / "lock"
    lock.touch()
    (boot.run_folder / "power-off-if-alone").write_text("5\n")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        boot.run(in_an_hour())
        time.sleep(11)
        assert not boot.powered_off()
    wait_for(boot.powered_off)


@pytest.mark.parametrize("provisioned", [False, True])
def test_a_host_that_nobody_provisions_powers_off(boot: Boot, provisioned: bool) -> None:
    """The payload came, and its laptop died before it asked for anything; `provision` sets an end of its own."""
    (boot.run_folder.parent / "host.pyz").write_bytes(b"PK")
    if not provisioned:
        boot.run_folder.rmdir()
    boot.run(in_an_hour(), unused_s=5)
    if provisioned:
        time.sleep(16)
        assert not boot.powered_off()
    else:
        wait_for(boot.powered_off, 40)
