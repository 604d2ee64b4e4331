"""`provision`: the deadline before all else, then the workspace, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from payload_host import RUN, Host, tar_of, wait_for

from provisioning.protocol import Channel
from provisioning.provision import _installing
from provisioning.shown import run_shown


def request_of(host: Host, **more: Any) -> dict[str, Any]:
    return {
        "run": RUN,
        "deadline": float(host.deadline),
        "requirements": [],
        "command": ["true"],
        "gpu": False,
        "idle_s": None,
        "files": True,
        **more,
    }


def test_a_host_without_its_deadline_is_refused(host: Host) -> None:
    """Where no process will power the host off at this run's deadline, nothing is provisioned."""
    for wrong in ({"deadline": host.deadline + 1.0}, {"run": "another-run"}):
        code, events = host.try_call("provision", tar_of({"a": b""}), **request_of(host, **wrong))
        assert code == 1
        assert "deadline is not set" in events[-1]["message"]
    assert not host.work.exists()
    assert not (host.root / "spec.json").exists()


def test_another_python_than_the_job_needs_is_refused_before_anything(host: Host) -> None:
    """Nothing is fetched, nothing is written; a Python that will do is no matter."""
    for requires in (">=3.99", "<3.9,>=3", "nonsense"):
        code, events = host.try_call("provision", tar_of({"a": b""}), **request_of(host, requires_python=requires))
        assert code == 1 and len(events) == 1
        assert requires.split(",")[0] in events[0]["message"]
    assert not host.work.exists() and not (host.root / "spec.json").exists()
    assert host.call("provision", tar_of({"a": b""}), **request_of(host, requires_python=">=3.9"))
    assert host.call("provision", tar_of({"a": b""}), **request_of(host, requires_python=None))


def test_the_deadline_may_have_a_fraction(host: Host) -> None:
    """The boot keeps whole seconds, and the request says the time as a float."""
    events = host.call("provision", tar_of({"a": b""}), **request_of(host, deadline=host.deadline + 0.75))
    assert events[-1]["event"] == "provisioned"
    assert host.state()["deadline_armed"] is True


def test_a_deadline_that_arms_a_moment_later_is_waited_for(host: Host) -> None:
    """SSH may answer before the boot has armed the deadline."""
    host.deadline += 10
    line = json.dumps({"schema": 1, **request_of(host, files=False)}).encode() + b"\n"
    process = host.open("provision")
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()
    time.sleep(0.5)
    host.arm()
    out, _ = process.communicate(timeout=30)
    assert json.loads(out.splitlines()[-1])["event"] == "provisioned"


def test_the_phases_are_told_in_order(host: Host) -> None:
    """Each phase is said as it begins, and how long it took at the end."""
    events = host.provision(["true"], {"a": b""})
    assert [event["phase"] for event in events if event["event"] == "phase"] == ["deadline", "files", "environment"]
    assert set(events[-1]["seconds"]) == {"deadline", "files", "environment"}


def test_code_is_replaced_and_outputs_stay(host: Host) -> None:
    """A second workspace takes away what the first had brought, and nothing that the command wrote."""
    host.provision(["true"], {"train.py": b"1", "lib/old.py": b"1", "lib/both.py": b"1"})
    for written in ("outputs/model.pt", "lib/cache.bin"):
        (host.work / written).parent.mkdir(exist_ok=True)
        (host.work / written).write_bytes(b"kept")
    host.provision(["true"], {"train.py": b"2", "lib/both.py": b"2", "new/deep/er.py": b"2"})
    found = {str(path.relative_to(host.work)): path.read_bytes() for path in host.work.rglob("*") if path.is_file()}
    assert found == {
        "train.py": b"2",
        "lib/both.py": b"2",
        "new/deep/er.py": b"2",
        "outputs/model.pt": b"kept",
        "lib/cache.bin": b"kept",
    }


def test_names_come_as_they_are(host: Host) -> None:
    """Newlines, quotes, dashes, shell words, bytes that are not UTF-8: all are only names."""
    names = ["-rf", "$(touch x)", "a\nb", 'it\'s "so"', "sp ace", "ü", os.fsdecode(b"\xff\xfe.bin"), "d" * 120 + "/x"]
    host.provision(["true"], {name: name.encode("utf-8", "surrogateescape") for name in names})
    for name in names:
        assert (host.work / name).read_bytes() == name.encode("utf-8", "surrogateescape")


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "bad",
    [
        member("../out", tarfile.REGTYPE),
        member("a/../../out", tarfile.REGTYPE),
        member("/tmp/gpuctl-out", tarfile.REGTYPE),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("deep/link", tarfile.SYMTYPE, "../../out"),
        member("fifo", tarfile.FIFOTYPE),
        member("hard", tarfile.LNKTYPE, "../out"),
    ],
    ids=lambda bad: f"{bad.name} {bad.linkname}",
)
def test_a_member_that_leaves_the_workspace_is_refused(host: Host, bad: tarfile.TarInfo) -> None:
    """One such member, and the workspace stays as it was."""
    host.provision(["true"], {"train.py": b"old"})
    code, events = host.try_call("provision", tar_of({"train.py": b"new", bad.name: bad}), **request_of(host))
    assert (code, events[-1]["event"]) == (1, "error")
    assert repr(bad.name) in events[-1]["message"]
    assert (host.work / "train.py").read_bytes() == b"old"
    assert not (host.root / "out").exists()


def test_a_link_inside_the_workspace_is_kept(host: Host) -> None:
    """A project may link one of its files or folders to another."""
    host.provision(["true"], {"data/a.txt": b"a", "lib/link": member("lib/link", tarfile.SYMTYPE, "../data/a.txt")})
    assert (host.work / "lib/link").read_bytes() == b"a"


def test_an_empty_folder_is_made(host: Host) -> None:
    """What a program writes into is there, as on the laptop, and stays what the program has made of it."""
    empty = {"logs": member("logs", tarfile.DIRTYPE), "a/b": member("a/b", tarfile.DIRTYPE)}
    host.provision(["true"], {"train.py": b"", **empty})
    (host.work / "logs/x").write_text("x")
    host.provision(["true"], {"train.py": b"", **empty})
    assert (host.work / "logs/x").read_text() == "x" and (host.work / "a/b").is_dir()


def test_a_workspace_that_is_cut_changes_nothing(host: Host) -> None:
    """At whatever byte the connection ends, the code is the old one, and the next call makes it whole."""
    host.provision(["true"], {"train.py": b"old"})
    body = tar_of({"train.py": b"new", "big.bin": os.urandom(200_000), "last.py": b"new"})
    for length in (0, 5, 300, len(body) // 2, len(body) - 1):
        code, events = host.try_call("provision", body[:length], **request_of(host))
        assert code == 1
        assert "did not arrive whole" in events[-1]["message"]
        assert (host.work / "train.py").read_bytes() == b"old"
        assert host.try_call("start")[0] == 1
    host.call("provision", body, **request_of(host))
    assert (host.work / "last.py").read_bytes() == b"new"


def test_the_line_may_stay_open_after_the_workspace(host: Host) -> None:
    """The body ends where gzip says so: a laptop need not close its side."""
    process = host.open("provision")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"schema": 1, **request_of(host)}).encode() + b"\n" + tar_of({"a": b"x"}))
    process.stdin.flush()
    assert process.wait(timeout=30) == 0
    assert (host.work / "a").read_bytes() == b"x"


def test_code_never_goes_through_a_link_of_the_command(host: Host, tmp_path: Path) -> None:
    """Where the command has made a link, the next workspace's files do not land behind it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    host.provision(["true"], {"train.py": b"1"})
    (host.work / "lib").symlink_to(elsewhere)
    code, events = host.try_call("provision", tar_of({"lib/x.py": b"x"}), **request_of(host))
    assert code == 1
    assert "is a link" in events[-1]["message"]
    assert list(elsewhere.iterdir()) == []


def test_a_running_training_is_left_alone(host: Host) -> None:
    """Provisioned again while it trains, a host keeps its code, its spec and its training."""
    host.train("import time; print('up', flush=True); time.sleep(60)")
    pid = json.loads((host.root / "run/1/state.json").read_text())["pid"]
    host.provision(["false"], {"train.py": b"other"}, env={"NEW": "1"})
    assert b"time.sleep" in (host.work / "train.py").read_bytes()
    assert host.start()["state"] == "running"
    assert json.loads((host.root / "run/1/state.json").read_text())["pid"] == pid
    host.call("stop", grace_s=2)


def test_an_output_path_outside_the_workspace_is_refused(host: Host) -> None:
    """`outputs.paths` name what is below the workspace."""
    for path in ("../secrets", "/etc", "", "a/../../b"):
        code, _ = host.try_call("provision", **request_of(host, files=False, outputs={"paths": [path]}))
        assert code == 1


def ensured(host: Host, pci: Path, *, within_s: float = 60) -> subprocess.CompletedProcess[str]:
    """The payload looks for a driver on a host with these devices; what it prints."""
    script = (
        "from pathlib import Path\nfrom provisioning.driver import ensure_driver\n"
        f"print(ensure_driver(print, Path({str(pci)!r}), within_s={within_s}))"
    )
    environment = {**host.environment, "PYTHONPATH": str(host.pyz)}
    return subprocess.run([host.python, "-c", script], env=environment, capture_output=True, text=True)


def test_a_driver_is_installed_by_ubuntus_own_means(host: Host, tmp_path: Path) -> None:
    """On a host with an NVIDIA device and no driver: packages, module, tools of the same branch, then a look."""
    device = tmp_path / "pci" / "0000:00:1e.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    asked = tmp_path / "asked"
    host.stand_in("sudo", f'[ "$1" = -n ] && shift; echo "sudo $*" >>"{asked}"; exec "$@"')
    for command in ("apt-get", "ubuntu-drivers"):
        host.stand_in(command, f'echo "{command} $*" >>"{asked}"; echo "{command} says"')
    host.stand_in("modprobe", f'echo "modprobe $*" >>"{asked}"; touch "{tmp_path}/loaded"')
    host.stand_in("nvidia-smi", f'test -e "{tmp_path}/loaded"')
    done = ensured(host, tmp_path / "pci")
    assert done.stdout.splitlines()[-1] == "installed", done.stderr
    words = [line.split() for line in asked.read_text().splitlines()]
    programs = [line for line in words if line[0] != "sudo"]
    assert ["modprobe", "nvidia"] in programs
    assert ["ubuntu-drivers", "install", "--gpgpu"] in programs
    assert any("ubuntu-drivers-common" in line and "DPkg::Lock::Timeout=300" in line for line in programs)


def test_a_host_without_an_nvidia_device_needs_no_driver(host: Host, tmp_path: Path) -> None:
    """Nothing is installed where there is nothing to drive."""
    (tmp_path / "pci").mkdir()
    done = ensured(host, tmp_path / "pci")
    assert "no NVIDIA device" in done.stdout
    assert not any("apt-get" in line for line in (tmp_path / "asked").read_text().splitlines())


def test_a_driver_that_answers_is_found(host: Host) -> None:
    """Where `nvidia-smi` answers, nothing is installed."""
    host.stand_in("nvidia-smi", "echo 'GPU 0: Tesla T4'")
    events = host.provision(["true"], gpu=True)
    assert {"event": "output", "text": "NVIDIA driver: found"} in events


def test_a_slow_nvidia_smi_is_no_missing_driver(host: Host, tmp_path: Path) -> None:
    """A host with many GPUs takes its time for the first answer: nothing is installed over its driver."""
    (tmp_path / "pci/0").mkdir(parents=True)
    (tmp_path / "pci/0/vendor").write_text("0x10de\n")
    host.stand_in("nvidia-smi", "exec sleep 10")
    done = ensured(host, tmp_path / "pci", within_s=0.3)
    assert done.stdout == "found\n", done.stderr
    assert not (tmp_path / "asked").exists()


TORCH = """
__version__ = "2.13.0"
class version:
    cuda = {cuda!r}
def zeros(*size, device):
    if {why!r}:
        raise RuntimeError({why!r})
"""
TOO_OLD = "The NVIDIA driver on your system is too old\n(found version 12020)."
"""As torch says it (c10/cuda/CUDAFunctions.cpp)."""


@pytest.fixture
def with_torch(host: Host) -> Callable[..., tuple[int, list[Any]]]:
    """Provision a host that has a GPU, and a run whose torch is built for that CUDA and fails for that reason."""

    def provision(cuda: str | None, why: str, **more: Any) -> tuple[int, list[Any]]:
        host.provision(["true"])
        (site,) = (host.root / "venv").glob("lib/python3*/site-packages")
        (site / "torch.py").write_text(TORCH.format(cuda=cuda, why=why))
        return host.try_call("provision", **request_of(host, files=False, gpu=True, **more))

    host.stand_in("nvidia-smi", "echo 'GPU 0: Tesla T4'")
    return provision


def test_a_torch_that_cannot_use_the_gpu_is_refused(with_torch: Callable[..., tuple[int, list[Any]]]) -> None:
    """Before the training is started, which would go on without a GPU or fail late; with torch's own reason."""
    code, events = with_torch("13.0", TOO_OLD)
    assert code == 1
    assert events[-1]["message"].startswith("torch 2.13.0 cannot use this host's GPU: The NVIDIA driver on your system")
    assert "older CUDA than 13.0" in events[-1]["next"] and "\n" not in events[-1]["message"]


def test_a_gpu_that_is_not_free_just_now_is_told(with_torch: Callable[..., tuple[int, list[Any]]]) -> None:
    """Another program may hold its memory, and it may be free when the training asks."""
    code, events = with_torch("13.0", "CUDA error: out of memory")
    assert code == 0 and any("could not use the GPU just now: CUDA error" in str(event) for event in events)


def test_a_torch_for_cpus_alone_is_told(with_torch: Callable[..., tuple[int, list[Any]]]) -> None:
    """It may be meant, beside another library that uses the GPU."""
    code, events = with_torch(None, "Torch not compiled with CUDA enabled")
    assert code == 0
    assert any("built for CPUs only and will not use the GPU" in str(event.get("text")) for event in events)


@pytest.mark.parametrize(
    ("why", "more"), [("", {}), (TOO_OLD, {"env": {"CUDA_VISIBLE_DEVICES": ""}})], ids=["it sees it", "not to see it"]
)
def test_a_torch_that_does_as_it_should_is_no_word_worth(
    with_torch: Callable[..., tuple[int, list[Any]]], why: str, more: dict[str, Any]
) -> None:
    """It sees the GPU, or whoever launched has said which it may see."""
    code, events = with_torch("13.0", why, **more)
    assert code == 0 and not any("torch 2" in str(event) for event in events)


def test_a_laptop_that_goes_away_does_not_undo_an_installation(host: Host, tmp_path: Path) -> None:
    """What was begun is finished without a listener, and the next call finds it done."""
    host.stand_in("uv", f'sleep 1; echo one; sleep 0.3; echo two; touch "{tmp_path}/installed"')
    for name in [name for name in host.environment if name.startswith("PIP_")]:
        del host.environment[name]
    host.environment["PIP_CONFIG_FILE"] = os.devnull
    process = host.open("provision")
    assert process.stdin is not None and process.stdout is not None
    request = request_of(host, files=False, requirements=["nothing"])
    process.stdin.write(json.dumps({"schema": 1, **request}).encode() + b"\n")
    process.stdin.close()
    wait_for(lambda: b"environment" in process.stdout.readline())  # type: ignore[union-attr]
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "installed").exists()
    assert host.call("provision", **request)[-1]["environment"] == "found"


def test_a_program_that_installs_in_silence_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is compiled says nothing for an hour; the laptop hears all the same that the host is at work."""
    monkeypatch.setattr("provisioning.provision._ALIVE_S", 0.01)
    said, lines = io.BytesIO(), list[str]()
    with _installing(Channel(io.BytesIO(), said)):
        assert run_shown(["sh", "-c", "sleep 0.5; echo made"], lines.append).code == 0
    assert lines == ["made"]
    assert said.getvalue().count(b'{"event": "alive"}\n') >= 3
