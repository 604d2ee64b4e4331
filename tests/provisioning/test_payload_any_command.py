"""Whatever a command is, the supervisor stands: its end is written down, with an exit code and a line that says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from payload_host import Host, wait_for

from provisioning.runnable import CannotRun, check_file, explain

ELF_OF_ANOTHER_KIND = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf7\x00" + bytes(44)
ELF_WITHOUT_LOADER = Path("/bin/true")


@dataclass(frozen=True)
class Case:
    """A command, what lies in its workspace, and what its end is to be: exit code, words of the line that says so."""

    command: list[str]
    code: int
    says: str
    files: dict[str, bytes] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Path], Any] = lambda work: None


def program(content: bytes) -> dict[str, Any]:
    """A workspace with an executable `run.sh`."""
    return {
        "files": {"run.sh": content},
        "before": lambda work: (work / "run.sh").chmod(0o755),
    }


CASES = {
    "Windows line endings": Case(
        ["./run.sh"], 126, r"begins with #!/bin/bash\r: it has Windows", **program(b"#!/bin/bash\r\necho hi\r\n")
    ),
    "Windows line endings by env": Case(
        ["./run.sh"], 126, "dos2unix", **program(b"#!/usr/bin/env python3\r\nprint()\r\n")
    ),
    "Windows line endings and no #!": Case(["./run.sh"], 126, "dos2unix", **program(b"echo hi\r\n")),
    "a byte order mark": Case(["./run.sh"], 126, "byte order mark", **program(b"\xef\xbb\xbf#!/bin/sh\n")),
    "an interpreter that is not there": Case(
        ["./run.sh"], 127, "begins with #!/no/such/fish -e, which", **program(b"#!/no/such/fish -e\n")
    ),
    "an empty file": Case(["./run.sh"], 126, "./run.sh is an empty file", **program(b"")),
    "another processor": Case(["./run.sh"], 126, "a program for processor number 247", **program(ELF_OF_ANOTHER_KIND)),
    "a Windows program": Case(["./run.sh"], 126, "a Windows program", **program(b"MZ\x90\x00" + bytes(60))),
    "UTF-16": Case(["./run.sh"], 126, "not a program", **program("#!/bin/sh\n".encode("utf-16-le"))),
    "a folder": Case(["./code"], 126, "./code is a folder", {"code/a": b""}),
    "not executable": Case(["./run.sh"], 126, "`chmod +x` it", {"run.sh": b"#!/bin/sh\n"}),
    "a link to nothing": Case(
        ["./run.sh"],
        127,
        "a link to /no/such, which does not exist",
        {"a": b""},
        before=lambda work: (work / "run.sh").symlink_to("/no/such"),
    ),
    "without ./": Case(["run.sh"], 127, "there is ./run.sh", {"run.sh": b"#!/bin/sh\n"}),
    "an empty word": Case([""], 127, "command not found: ''"),
    "a name that no file can have": Case(["./" + "x" * 300], 127, "command not found"),
    "a NUL in a word": Case(["echo", "a\0b"], 126, "a word of the command contains a NUL"),
    "a NUL in a variable": Case(["true"], 126, "the variable KEY contains a NUL", more={"env": {"KEY": "a\0b"}}),
    "a variable with no name": Case(["true"], 126, "cannot be the name of", more={"env": {"a=b": "c"}}),
    "a lone surrogate": Case(["echo", "\ud800"], 126, "not text"),
    "a long variable": Case(["true"], 126, "the variable KEY has 200,000 bytes", more={"env": {"KEY": "x" * 200_000}}),
    "many words": Case(["true", *["x" * 100_000] * 40], 126, "bytes in all, more than"),
    "a file where outputs go": Case(
        ["true"],
        126,
        "outputs/a is not a folder",
        {"outputs/a": b"mine"},
        more={"outputs": {"paths": ["outputs/a/deep"]}},
    ),
    "a file called outputs": Case(["true"], 126, "outputs is not a folder", {"outputs": b"mine"}),
    "no workspace": Case(["true"], 126, "is not a folder", before=lambda work: (work.rmdir(), work.write_text("gone"))),
}


def end_of(host: Host) -> dict[str, Any]:
    """Run the supervisor to its end; what it wrote down."""
    process = host.open("run", stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"", b"")
    record: dict[str, Any] = json.loads((host.root / "run/1/exit.json").read_text())
    return record


def test_no_command_fells_the_supervisor(host: Host) -> None:
    """Each end has an exit code that is a shell's, and one line in the log that a person understands."""
    host.provision(["true"])
    spec = json.loads((host.root / "spec.json").read_text())
    for name, case in CASES.items():
        # As another `provision` would leave it; that itself is not what this is about, and takes its time.
        (host.root / "spec.json").write_text(json.dumps({**spec, "command": case.command, **case.more}))
        shutil.rmtree(host.work)
        for path, content in case.files.items():
            (host.work / path).parent.mkdir(parents=True, exist_ok=True)
            (host.work / path).write_bytes(content)
        host.work.mkdir(exist_ok=True)
        before = len(host.log)
        case.before(host.work)
        record = end_of(host)
        said = host.log[before:].decode()
        assert (record["state"], record["exit_code"]) == ("failed", case.code), f"{name}: {record}"
        assert case.says in said and said.startswith("gpuctl: ") and said.count("\n") == 1, f"{name}: {said!r}"
        assert record["why"] in said, name
        if host.work.is_file():
            host.work.unlink()
            host.work.mkdir()
    assert host.state()["why"] == record["why"]


def test_a_script_without_an_interpreter_line_runs_as_in_a_shell(host: Host) -> None:
    """`/bin/sh` runs it with its words, as every shell does, and the log says so."""
    host.provision(["./run.sh", "a b"], {"run.sh": b'echo "got $1"; exit 3\n'})
    (host.work / "run.sh").chmod(0o755)
    assert end_of(host)["exit_code"] == 3
    assert host.log == b"gpuctl: ./run.sh has no #! line: /bin/sh runs it\ngot a b\n"


def test_signals_for_the_supervisor_do_not_fell_it(host: Host) -> None:
    """A command may signal its parent, as some launchers do; the command's own signals are what they always are."""
    script = (
        "import os, signal\nfor name in ('USR1', 'USR2', 'ALRM', 'PROF', 'VTALRM', 'XCPU'):\n"
        "    os.kill(os.getppid(), getattr(signal, 'SIG' + name))\n"
        "assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL\nprint('told')"
    )
    host.provision(["python", "t.py"], {"t.py": script.encode()})
    assert end_of(host)["state"] == "succeeded"
    assert host.log == b"told\n"


def test_a_command_that_removes_everything_has_an_end(host: Host) -> None:
    """Its workspace, its log and the supervisor's own folder gone: how it ended is written down all the same."""
    host.provision(["sh", "-c", "rm -rf ~/gpuctl; exit 4"])
    assert end_of(host)["exit_code"] == 4


def test_a_killed_supervisor_is_told_as_one(host: Host) -> None:
    """No exit code is known then, and `why` says what happened; a restart of the host is told from that."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(600)")
    record = json.loads((host.root / "run/1/state.json").read_text())
    os.kill(record["pid"], signal.SIGKILL)
    over = wait_for(lambda: (state := host.state())["state"] == "failed" and state)
    assert over["why"] == "its supervisor was killed (out of memory?)"
    host.environment["TMUX_TMPDIR"] = str(host.home)  # where an embedded host's next boot has its sockets
    assert host.state()["why"] == "its host was restarted meanwhile"
    host.environment["TMUX_TMPDIR"] = str(host.tmux_folder)
    os.kill(record["pgid"], signal.SIGKILL)  # the guard would go on looking for twenty seconds


@pytest.mark.skipif(not Path("/bin/true").exists(), reason="no ELF program at hand")
def test_a_program_whose_loader_is_missing_is_told_so(tmp_path: Path) -> None:
    """The kernel says that the file is not there, though it is."""
    path = tmp_path / "prog"
    path.write_bytes(ELF_WITHOUT_LOADER.read_bytes().replace(b"/ld-linux", b"/no-linux"))
    path.chmod(0o755)
    check_file("./prog", path)
    with pytest.raises(FileNotFoundError) as refused:
        subprocess.run([path], check=False)
    said = explain(refused.value, "./prog", path, ["./prog"], {})
    assert isinstance(said, CannotRun)
    assert said.why.startswith("./prog needs a program loader that this host does not have")
