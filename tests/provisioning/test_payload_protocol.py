"""The payload as a program: what it answers to what it cannot do, and which Pythons it runs on."""

from __future__ import annotations

import ast
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from payload_host import REPOSITORY, Host

SOURCES = sorted((REPOSITORY / "provisioning").rglob("*.py"))


def older_pythons() -> dict[str, str]:
    """Older interpreters on this machine, by version."""
    found = {}
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    for version in ("3.6", "3.8", "3.9", "3.10"):
        installed = sorted(home.glob(f".pyenv/versions/{version}.*/bin/python3"))
        python = shutil.which(f"python{version}") if not installed else str(installed[-1])
        if python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            found[version] = python
    return found


OLDER = older_pythons()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_module_reads_on_python_3_9(source: Path) -> None:
    """A fresh Ubuntu's or a Deep Learning AMI's python3 can read every line of the payload."""
    ast.parse(source.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_imports_are_the_standard_librarys_alone(source: Path) -> None:
    """Nothing but Python has to be on a host."""
    allowed = sys.stdlib_module_names | {"provisioning"}
    for node in ast.walk(ast.parse(source.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= allowed


@pytest.mark.parametrize("python", [sys.executable, *(OLDER[v] for v in OLDER if v >= "3.9" or v == "3.10")])
def test_a_run_from_provision_to_send(host: Host, python: str) -> None:
    """A run goes its whole way on this Python."""
    host.python = python
    state = host.train("import os; open(os.environ['GPUCTL_OUTPUTS'] + '/m.pt', 'w').write('model'); print('done')")
    assert state["state"] in ("running", "succeeded")
    assert host.wait_until_over()["state"] == "succeeded"
    listed = host.call("manifest")
    assert [event["path"] for event in listed if event["event"] == "file"] == ["gpuctl/log", "outputs/m.pt"]
    files, _ = host.send(["outputs/m.pt", "gpuctl/log"])
    assert (files["outputs/m.pt"][1], files["gpuctl/log"][1]) == (b"model", b"done\n")


@pytest.mark.parametrize("python", [OLDER[version] for version in ("3.6", "3.8") if version in OLDER] or [""])
def test_a_python_that_is_too_old_says_so(host: Host, python: str) -> None:
    """One line names the version that was found and the one that is needed."""
    entry = (REPOSITORY / "provisioning" / "__main__.py").read_text()
    ast.parse(entry, feature_version=(3, 6))
    if python:
        host.python = python
        code, events = host.try_call("state")
        assert code == 1
        assert "needs 3.9" in events[-1]["message"]


def raw(host: Host, verb: str, request: bytes) -> tuple[int, list[dict[str, object]]]:
    process = host.open(verb)
    out, err = process.communicate(request, timeout=60)
    return process.returncode, [json.loads(line) for line in out.splitlines() or err.splitlines()]


@pytest.mark.parametrize("request_line", [b"", b"\n", b"no json\n", b"[1]\n", b'{"schema": 2}\n', b"\xff\xfe\n"])
def test_a_request_that_is_none_is_one_error(host: Host, request_line: bytes) -> None:
    """Whatever comes on standard input, the answer is one JSON line and exit code 1."""
    code, events = raw(host, "state", request_line)
    assert (code, len(events), events[0]["event"]) == (1, 1, "error")


@pytest.mark.parametrize("verb", ["provision", "start", "follow", "manifest", "send", "receipt", "stop"])
def test_every_verb_wants_its_request(host: Host, verb: str) -> None:
    """No verb does anything without a request that it understands."""
    code, events = raw(host, verb, b'{"schema": 99}\n')
    assert (code, len(events), events[0]["event"]) == (1, 1, "error")
    assert "schema 1" in str(events[0]["message"])


def test_an_unknown_verb_is_one_error(host: Host) -> None:
    """A verb that this payload does not know names those that it does."""
    code, events = raw(host, "dance", b'{"schema": 1}\n')
    assert code == 1
    assert "provision" in str(events[0]["message"])


def test_a_field_of_the_wrong_type_is_named(host: Host) -> None:
    """The error says which field of the request is wrong."""
    code, events = host.try_call("provision", run="r", command="python train.py", requirements=[], deadline=1.0)
    assert code == 1
    assert "command" in events[-1]["message"]


def test_nothing_is_written_outside_the_folder(host: Host) -> None:
    """In HOME there is `gpuctl` and nothing else, readable by this user alone."""
    host.train("print(1)")
    host.wait_until_over()
    assert [entry.name for entry in host.home.iterdir()] == ["gpuctl"]
    assert host.root.stat().st_mode & 0o777 == 0o700
    assert (host.root / "spec.json").stat().st_mode & 0o777 == 0o600
