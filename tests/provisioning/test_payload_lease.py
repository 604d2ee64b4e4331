"""The lease on the host, and what it tells of itself: receipts, the idle limit, the state."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from payload_host import Host, wait_for

from provisioning.state import parse_gpus

TINY = "open('outputs/m.pt', 'w').write('m')"


def asked(host: Host) -> list[str]:
    path = host.stand_ins.parent / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.startswith("nvidia-smi")]


def take_home(host: Host) -> dict[str, object]:
    """What a pull does that leaves nothing behind."""
    last = host.call("manifest")[-1]
    over = last["state"]["state"] not in ("none", "running")
    return host.call("receipt", files=last["files"], bytes=last["bytes"], at=time.time(), over=over)[-1]


def test_a_receipt_is_kept(host: Host) -> None:
    """`state` tells of the last pull that left nothing behind."""
    assert host.state()["receipt"] is None
    host.train(TINY)
    host.wait_until_over()
    answer = take_home(host)
    receipt = host.state()["receipt"]
    assert receipt == {key: value for key, value in answer.items() if key != "event"}
    assert (receipt["files"], receipt["final"]) == (2, True)


def test_the_host_goes_once_idle_and_home(host: Host) -> None:
    """It powers off `idle_s` after the receipt of a pull that saw the end, and not before."""
    host.stand_in("sudo", f'[ "$1" = -n ] && shift; echo "sudo" >>"{host.stand_ins.parent}/asked"; exec "$@"')
    host.stand_in("shutdown", f'echo "shutdown $*" >>"{host.stand_ins.parent}/asked"')
    host.train(TINY, idle_s=1.0)
    host.wait_until_over()
    time.sleep(2)
    assert asked(host) == []
    home = time.monotonic()
    take_home(host)
    wait_for(lambda: "shutdown -P now" in asked(host))
    assert time.monotonic() - home > 0.9
    assert ("sudo" in asked(host)) == (os.geteuid() != 0)


def test_a_pull_that_did_not_see_the_end_is_no_reason_to_go(host: Host) -> None:
    """A receipt from while training ran does not let the host go: what was written after it is not home."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(1.5)\n" + TINY, idle_s=0.2)
    assert take_home(host)["final"] is False
    host.wait_until_over()
    time.sleep(1.5)
    assert not any("shutdown" in line for line in asked(host))
    assert host.tmux("has-session", "-t", "=gpuctl").returncode == 0


def test_without_an_idle_limit_the_host_stays(host: Host) -> None:
    """The supervisor ends with the command, and powers nothing off."""
    host.train(TINY, idle_s=None)
    host.wait_until_over()
    take_home(host)
    wait_for(lambda: host.tmux("has-session", "-t", "=gpuctl").returncode != 0)
    assert asked(host) == []


def test_a_waiting_supervisor_gives_way(host: Host) -> None:
    """While it waits for its idle limit, the next attempt can start."""
    host.train("print('one')", idle_s=600)
    host.wait_until_over()
    host.train("print('two')", idle_s=600)
    host.wait_until_over()
    assert host.log == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("script", "goes"),
    [
        ("raise SystemExit(1)", True),
        ("open('outputs/log.txt', 'w').write('x'); raise SystemExit(1)", False),
        ("print('done')", False),
    ],
    ids=["failed, nothing left", "failed, with outputs", "succeeded"],
)
def test_a_run_that_failed_early_and_left_nothing_is_waited_for_by_nobody(host: Host, script: str, goes: bool) -> None:
    """Its host goes after the idle limit, pull or none; any other waits for a pull."""
    host.train(script, idle_s=600)
    ended = host.wait_until_over()["ended"]
    at = host.state()["power_off_at"]
    assert (at is not None and -5 < at - ended - 600 < 30) if goes else at is None


def test_outputs_that_may_be_dropped_are_not_waited_for(host: Host) -> None:
    """With `discard` the host goes `idle_s` after training has ended; while it trains, also where nobody is left."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(600)", idle_s=600, discard=True)
    assert (host.root / "run/power-off-if-alone").read_text() == "600\n"
    assert host.state()["power_off_at"] is None
    (host.root / "run/power-off-at").write_text("9999999999\n")  # as a `provision` writes that was left behind
    wait_for(lambda: host.state()["power_off_at"] is None)
    ended = host.call("stop", grace_s=5)[-1]["ended"]
    at = host.state()["power_off_at"]
    assert -5 < at - ended - 600 < 30
    assert not (host.root / "run/power-off-if-alone").exists()
    take_home(host)
    assert host.state()["power_off_at"] == at


def test_a_host_on_which_nothing_is_started_goes_by_itself(host: Host) -> None:
    """From `provision` on, half an hour; not once training runs; and `state` tells that it was provisioned."""
    assert (host.state()["provisioned"], host.state()["power_off_at"]) == (False, None)
    host.provision(["sleep", "600"], idle_s=3600)
    state = host.state()
    assert (state["state"], state["provisioned"]) == ("none", True)
    assert 1700 < state["power_off_at"] - time.time() <= 1800
    host.start()
    assert host.state()["power_off_at"] is None
    host.provision(["sleep", "600"], idle_s=3600)
    assert host.state()["power_off_at"] is None
    host.call("stop", grace_s=1)


def test_power_off_falls_back(host: Host) -> None:
    """Where `sudo` refuses, `shutdown` is tried by itself, and tried again until it takes."""
    host.stand_in("shutdown", f'echo "shutdown $*" >>"{host.stand_ins.parent}/asked"; exit 1')
    host.train(TINY, idle_s=0.1)
    host.wait_until_over()
    take_home(host)
    wait_for(lambda: asked(host).count("shutdown -P now") >= 2)


def test_state_tells_of_the_deadline(host: Host) -> None:
    """It is the one of the request, and armed only while its process is there."""
    assert (host.state()["deadline"], host.state()["deadline_armed"]) == (None, False)
    host.provision(["true"])
    assert (host.state()["deadline"], host.state()["deadline_armed"]) == (float(host.deadline), True)
    os.killpg(host.processes[0].pid, 9)
    host.processes[0].wait()
    assert host.state()["deadline_armed"] is False


CAPTURED = """\
Tesla T4, 97, 13423, 15360
NVIDIA H100 80GB HBM3, 0, 1, 81559
NVIDIA A100-SXM4-40GB MIG 1g.5gb, [N/A], 12, 4864
"""


def test_gpus_are_read_from_nvidia_smi(host: Host) -> None:
    """Each line is a GPU, and what `nvidia-smi` does not know is null."""
    host.stand_in("nvidia-smi", f"cat <<'END'\n{CAPTURED}END")
    gpus = host.state()["gpus"]
    assert [gpu["name"] for gpu in gpus] == ["Tesla T4", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"]
    assert gpus[0] == {
        "name": "Tesla T4",
        "utilization_percent": 97,
        "memory_used_mib": 13423,
        "memory_total_mib": 15360,
    }
    assert gpus[2]["utilization_percent"] is None


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo nonsense", "exit 0", "kill -9 $$"])
def test_no_gpu_is_no_error(host: Host, script: str) -> None:
    """Where `nvidia-smi` fails or says nothing of use there are no GPUs."""
    host.stand_in("nvidia-smi", script)
    assert host.state()["gpus"] == []


@given(st.text())
def test_any_text_of_nvidia_smi_gives_a_list(text: str) -> None:
    """The parser is total."""
    for gpu in parse_gpus(text):
        assert set(gpu) == {"name", "utilization_percent", "memory_used_mib", "memory_total_mib"}


def test_the_deadlines_name_is_one_on_both_sides() -> None:
    """The boot names the process that the payload looks for."""
    from gpuctl.core import boot
    from provisioning import lease

    assert boot.DEADLINE_MARK == lease.DEADLINE_MARK
    assert Path(boot.__file__).exists()
