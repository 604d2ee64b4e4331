"""Environments: installed once for a set of requirements, seen by every run that asks for it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import time
import venv
import zipfile
from pathlib import Path

import pytest
from payload_host import Host, wait_for

from provisioning.environment import Watched, parse_fetched

TINY = {"requirements": ["tinything"]}


def wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """A small wheel with one module and one script."""
    files = {
        f"{name}.py": f"VERSION = {version!r}\n\n\ndef main():\n    print('script of', VERSION)\n",
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-{version}.dist-info/entry_points.txt": f"[console_scripts]\n{name}-say = {name}:main\n",
    }
    record = f"{name}-{version}.dist-info/RECORD"
    lines = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for path, text in files.items()
    ]
    made = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**files, record: "\n".join([*lines, f"{record},,"]) + "\n"}.items():
            archive.writestr(path, text)
    return made


@pytest.fixture
def shop(host: Host, tmp_path: Path) -> Path:
    """The only place that pip may install from: a folder."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in [name for name in host.environment if name.startswith("PIP_")]:
        del host.environment[name]
    host.environment.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder))
    wheel(folder, "tinything")
    return folder


def test_requirements_are_installed_once(host: Host, shop: Path) -> None:
    """A run imports what it asked for and has its scripts on PATH; the second provisioning finds it all there.

    pip runs in the workspace, for requirements that name a folder there, and imports nothing from it.
    """
    script = b"import tinything, subprocess, sys\nprint(tinything.VERSION, tinything.__file__)\n"
    script += b"subprocess.run(['tinything-say'], check=True)\n"
    files = {"t.py": script, "queue.py": b"raise SystemExit('the project has a module of this name')\n"}
    events = host.provision(["python", "t.py"], files, requirements=["tinything>=0.5"])
    assert events[-1]["environment"] == "made"
    assert any("tinything" in event.get("text", "") for event in events if event["event"] == "output")
    host.start()
    assert host.wait_until_over()["state"] == "succeeded", host.log
    assert b"/gpuctl/envs/" in host.log
    assert b"script of 1.0" in host.log
    again = host.provision(["python", "t.py"], files, requirements=["tinything>=0.5"])
    assert again[-1]["environment"] == "found"
    assert not any(event["event"] == "output" for event in again), "pip ran"


def test_hosts_that_share_environments_pay_once(host: Host, shop: Path, tmp_path: Path) -> None:
    """Two hosts that ask at once for the same: one builds, the other waits and finds."""
    host.environment["GPUCTL_ENVIRONMENTS"] = str(tmp_path / "shared")
    other = Host(tmp_path / "other", host.tmux_folder, host.stand_ins, host.pyz, dict(host.environment))
    other.home.mkdir()
    other.environment["HOME"] = str(other.home)
    other.deadline = host.deadline
    line = {"run": "char-rnn-k3f9", "deadline": float(host.deadline), "command": ["true"], **TINY}
    calls = [one.open("provision") for one in (host, other)]
    for call in calls:
        assert call.stdin is not None
        call.stdin.write(json.dumps({"schema": 1, **line}).encode() + b"\n")
        call.stdin.close()
    answers = [call.stdout.read() for call in calls if call.stdout is not None]
    assert [call.wait(timeout=120) for call in calls] == [0, 0]
    assert sorted(b'"made"' in answer for answer in answers) == [False, True]
    assert len([path for path in (tmp_path / "shared").iterdir() if path.is_dir()]) == 1
    other.close()


def test_an_environment_says_when_it_was_last_used(host: Host, shop: Path) -> None:
    """By its mark's time: so what nobody uses can be removed."""
    host.provision(["true"], requirements=["tinything"])
    (mark,) = host.root.glob("envs/*/gpuctl-whole")
    os.utime(mark, (1, 1))
    host.provision(["true"], requirements=["tinything"])
    assert time.time() - mark.stat().st_mtime < 60


def test_a_build_that_was_killed_is_made_anew(host: Host, shop: Path, tmp_path: Path) -> None:
    """Half an environment is never taken for one."""
    host.environment["GPUCTL_ENVIRONMENTS"] = str(tmp_path / "shared")
    line = {"run": "char-rnn-k3f9", "deadline": float(host.deadline), "command": ["true"], **TINY}
    call = host.open("provision")
    assert call.stdin is not None
    call.stdin.write(json.dumps({"schema": 1, **line}).encode() + b"\n")
    call.stdin.close()
    wait_for(lambda: list((tmp_path / "shared").glob("*/pyvenv.cfg")))
    os.killpg(call.pid, signal.SIGKILL)
    call.wait()
    assert not list((tmp_path / "shared").glob("*/gpuctl-whole"))
    assert host.call("provision", **line)[-1]["environment"] == "made"


def test_what_decides_is_in_the_key(host: Host, shop: Path) -> None:
    """Other requirements, or other settings of pip, are another environment; another order is not."""
    wheel(shop, "otherthing")
    both = ["tinything", "otherthing"]
    assert host.provision(["true"], requirements=both)[-1]["environment"] == "made"
    assert host.provision(["true"], requirements=both[::-1])[-1]["environment"] == "found"
    host.environment["PIP_PREFER_BINARY"] = "1"
    assert host.provision(["true"], requirements=both)[-1]["environment"] == "made"


def test_uvs_settings_are_uvs(host: Host, tmp_path: Path) -> None:
    """`--env UV_INDEX_URL=…` reaches uv, and another value is another environment; pip's settings are pip's."""
    for name in [name for name in host.environment if name.startswith("PIP_")]:
        del host.environment[name]
    host.environment.update(PIP_CONFIG_FILE=os.devnull)
    host.stand_in("uv", f'echo "$UV_INDEX_URL" >> {tmp_path / "indexes"}')
    for index in ("https://one.example", "https://two.example"):
        env = {"UV_INDEX_URL": index}
        assert host.provision(["true"], env=env, **TINY)[-1]["environment"] == "made"
    assert host.provision(["true"], env=env, **TINY)[-1]["environment"] == "found"
    assert (tmp_path / "indexes").read_text() == "https://one.example\nhttps://two.example\n"


def test_pips_lines_come_as_it_says_them(host: Host, tmp_path: Path) -> None:
    """A download of minutes is announced before it begins: what pip says is not held back."""
    pip = tmp_path / "lib/pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text("import sys\nprint('not held back:', sys.stdout.write_through)\n")
    host.environment.update(PYTHONPATH=str(pip.parent), PIP_NO_INDEX="1")
    said = [event.get("text") for event in host.provision(["true"], **TINY)]
    assert "not held back: True" in said


def test_a_file_that_is_included_is_found_where_it_lies(host: Host, shop: Path) -> None:
    """`-r` and `-c` lines name files of the workspace, and what those include lies beside them."""
    wheel(shop, "otherthing")
    wheel(shop, "otherthing", "2.0")
    files = {
        "more/base.txt": b"-r tiny.txt\notherthing\n",
        "more/tiny.txt": b"tinything\n",
        "a b.txt": b"otherthing<2\n",
    }
    script = b"import otherthing, tinything\nprint('other', otherthing.VERSION)\n"
    host.provision(["python", "t.py"], {"t.py": script, **files}, requirements=["-r more/base.txt", "-c a b.txt"])
    host.start()
    assert host.wait_until_over()["state"] == "succeeded", host.log
    assert b"other 1.0" in host.log


def test_a_package_of_the_workspace_is_installed_anew_when_it_changes(host: Host, shop: Path, tmp_path: Path) -> None:
    """It need not begin with a dot to be one."""
    made = []
    for version in ("1.0", "2.0"):
        files = {"lib/mine-1.0-py3-none-any.whl": wheel(tmp_path, "mine", version).read_bytes()}
        asked = {"requirements": ["lib/mine-1.0-py3-none-any.whl"]}
        made.append(host.provision(["true"], files, **asked)[-1]["environment"])
    assert made == ["made", "made"]


def test_the_commands_variables_reach_pip(host: Host, shop: Path) -> None:
    """A token in an index's address, a build's own variable; what would change Python itself does not."""
    del host.environment["PIP_FIND_LINKS"]
    lines = ["--find-links ${SHOP}", "tinything"]
    env = {"SHOP": str(shop), "PYTHONHOME": "/nowhere", "PATH": "/nowhere"}
    assert host.provision(["true"], requirements=lines, env=env)[-1]["environment"] == "made"
    env["SHOP"] = str(shop.parent)
    code, events = host.try_call(
        "provision", run="char-rnn-k3f9", deadline=float(host.deadline), command=["true"], requirements=lines, env=env
    )
    assert (code, "tinything" in events[-1]["message"]) == (1, True)


def test_what_cannot_be_installed_is_one_error(host: Host, shop: Path) -> None:
    """The error is pip's own line, and the next try begins anew."""
    code, events = host.try_call(
        "provision",
        run="char-rnn-k3f9",
        deadline=float(host.deadline),
        command=["true"],
        requirements=["no-such-thing-anywhere"],
    )
    assert code == 1
    assert "no-such-thing-anywhere" in events[-1]["message"]
    assert host.try_call("start")[0] == 1
    assert host.provision(["true"], requirements=["tinything"])[-1]["environment"] == "made"


def test_requirements_that_exclude_each_other_are_named(host: Host, shop: Path) -> None:
    """pip's last line says "ResolutionImpossible" and an address; which they are stands some lines above."""
    wheel(shop, "tinything", "2.0")
    code, events = host.try_call(
        "provision",
        run="char-rnn-k3f9",
        deadline=float(host.deadline),
        command=["true"],
        requirements=["tinything==1.0", "tinything==2.0"],
    )
    cause = "the conflict is caused by The user requested tinything==1.0, and The user requested tinything==2.0"
    assert code == 1 and cause in events[-1]["message"]


def test_no_requirements_need_no_environment(host: Host) -> None:
    """A run without requirements has an empty virtualenv, and no pip runs for it."""
    events = host.provision(["true"], {"a": b""})
    assert not any(event["event"] == "output" for event in events)
    assert not (host.root / "envs").exists()
    assert (host.root / "venv/bin/python").exists()


def test_a_shell_that_activates_the_virtualenv_finds_what_is_installed(host: Host, shop: Path) -> None:
    """Its modules and its programs, by the run's Python, however often the host was provisioned."""
    for _ in range(2):
        host.provision(["true"], requirements=["tinything"])
    shell = f". {host.root}/venv/bin/activate; command -v python; tinything-say; deactivate; command -v tinything-say"
    done = subprocess.run(["sh", "-c", shell], env=host.environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{host.root}/venv/bin/python\nscript of 1.0\n", done.stderr
    assert (host.root / "venv/bin/activate").read_text().count("# gpuctl") == 1


def test_a_runs_own_packages_stay_its_own(host: Host, shop: Path) -> None:
    """What a command installs by itself goes to its virtualenv, not to what other runs share."""
    wheel(shop, "otherthing")
    host.provision(
        ["sh", "-c", "pip install -q otherthing && python -c 'import otherthing'"], requirements=["tinything"]
    )
    host.start()
    assert host.wait_until_over(60)["state"] == "succeeded", host.log
    assert list((host.root / "venv").glob("lib/*/site-packages/otherthing.py"))
    assert not list((host.root / "envs").glob("*/lib/*/site-packages/otherthing.py"))


def test_large_downloads_are_told_before_they_come() -> None:
    """pip's and uv's lines say how much: the first that is large, or that makes the sum large, is announced."""
    said: list[str] = []
    watch = Watched(said.append)
    for line in (
        "Collecting torch>=2.4",
        "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (31 kB)",
        "  Downloading numpy-2.3.0-cp311-cp311-manylinux.whl (90.6 MB)",
        "  Downloading https://files.example/packages/ab/cd/small-1.0.whl (12.5 MB)",
        "Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (755.3 MB)",
        "Downloading nvidia-cudnn-cu12 (707.7MiB)",
    ):
        watch(line)
    told = [line for line in said if line.startswith("downloading")]
    assert len(told) == 3
    assert told[0].startswith("downloading small-1.0.whl: 12 MB (103 MB")
    assert told[1].startswith("downloading torch-2.13.0")
    assert "755 MB" in told[1]


@pytest.mark.parametrize(
    "line", ["", "Downloading", "Downloading x (big)", "Downloading x (1 XB)", "\x00(", "Downloading (1 MB)"]
)
def test_other_lines_announce_nothing(line: str) -> None:
    """Any line is a line."""
    assert parse_fetched(line) is None


def test_a_python_without_pip_makes_one_for_itself(host: Host, shop: Path, tmp_path: Path) -> None:
    """A fresh Ubuntu's python3 has no pip: one is made in `~/gpuctl`, once, and the environment with it."""
    bare = tmp_path / "bare"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(bare)
    host.python = str(bare / "bin" / "python")
    assert host.provision(["true"], **TINY)[-1]["environment"] == "made"
    assert (host.root / "pip/bin/python").exists()
    assert list((host.root / "envs").glob("*/lib/*/site-packages/tinything.py"))


def test_a_python_without_venv_asks_apt(host: Host, shop: Path, tmp_path: Path) -> None:
    """Where `ensurepip` is missing too, Debian's package is asked for, and its failure is one error."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name in ('pip', 'ensurepip') else found(name)\n"
    )
    host.environment["PYTHONPATH"] = str(hidden)
    host.stand_in("sudo", '[ "$1" = -n ] && shift; exec "$@"')
    request = {"run": "char-rnn-k3f9", "deadline": float(host.deadline), "command": ["true"], **TINY}
    code, events = host.try_call("provision", **request)
    assert code == 1
    assert "python3-venv" in events[-1]["message"]
    asked = (tmp_path / "asked").read_text()
    assert "install --no-install-recommends python3-venv" in asked
    assert "DPkg::Lock::Timeout=300" in asked
