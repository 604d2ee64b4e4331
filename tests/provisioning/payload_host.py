"""A host as the payload sees one: a HOME, a deadline, a tmux of its own, stand-ins for what only root may do."""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipapp
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RUN = "char-rnn-k3f9"
Event = dict[str, Any]


@pytest.fixture(scope="session")
def host_pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The payload as one file, made as gpuctl ships it: the package, and a `__main__.py` that runs it."""
    source = tmp_path_factory.mktemp("payload")
    shutil.copytree(REPOSITORY / "provisioning", source / "provisioning", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "__main__.py").write_text("import sys\n\nfrom provisioning.__main__ import main\n\nsys.exit(main())\n")
    target = source.with_suffix(".pyz")
    zipapp.create_archive(source, target, compressed=True)
    return target


def tar_of(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A gzipped tar of the workspace, as the laptop sends one."""
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb") as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), int(time.time()) - 3600, 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def wait_for(happened: Callable[[], Any], within_s: float = 20.0) -> Any:
    """What `happened` answers once that is true. Fails where it stays false."""
    end = time.monotonic() + within_s
    while not (answer := happened()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return answer


@dataclass
class Host:
    """One host, and the laptop's calls to it."""

    home: Path
    tmux_folder: Path
    stand_ins: Path
    pyz: Path
    environment: dict[str, str]
    python: str = sys.executable
    attempt: int = 1
    # Hosts of tests that run side by side see each other's processes: no two have the same deadline.
    deadline: int = field(default_factory=lambda: int(time.time()) + 3600 + 10 * secrets.randbelow(100_000))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.home / "gpuctl"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def log(self) -> bytes:
        path = self.root / "run" / "log"
        return path.read_bytes() if path.exists() else b""

    def arm(self) -> None:
        """Set the deadline, as the host's boot does."""
        self.spawn(["sh", "-c", "sleep 3600", "gpuctl-deadline", str(self.deadline), RUN])

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=self.environment, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def open(self, verb: str, **options: Any) -> subprocess.Popen[bytes]:
        """A call in progress."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.spawn([self.python, str(self.pyz), verb], **{**pipes, **options})

    def call(self, verb: str, body: bytes = b"", **request: Any) -> list[Event]:
        """The events of a call that ends well."""
        code, events = self.try_call(verb, body, **request)
        assert code == 0, events
        return events

    def try_call(self, verb: str, body: bytes = b"", **request: Any) -> tuple[int, list[Event]]:
        line = json.dumps({"schema": 1, **request}).encode("ascii") + b"\n"
        process = self.open(verb)
        out, err = process.communicate(line + body, timeout=120)
        assert not err, err.decode(errors="replace")
        return process.returncode, [json.loads(event) for event in out.splitlines()]

    def send(self, paths: list[str]) -> tuple[dict[str, tuple[tarfile.TarInfo, bytes]], list[Event]]:
        """What `send` answers: the stream's files by name, and its events."""
        process = self.open("send")
        out, err = process.communicate(json.dumps({"schema": 1, "paths": paths}).encode() + b"\n", timeout=120)
        assert process.returncode == 0, err
        files = {}
        with tarfile.open(fileobj=io.BytesIO(out), mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                files[member.name] = (member, content.read())
        return files, [json.loads(event) for event in err.splitlines()]

    def provision(self, command: list[str], files: Mapping[str, Any] | None = None, **more: Any) -> list[Event]:
        request: dict[str, Any] = {
            "run": RUN,
            "attempt": self.attempt,
            "deadline": float(self.deadline),
            "requirements": [],
            "command": command,
            "env": {},
            "outputs": {"paths": None, "checkpoints": ["*.pt"]},
            "gpu": False,
            "idle_s": None,
            "files": files is not None,
            **more,
        }
        return self.call("provision", tar_of(files) if files is not None else b"", **request)

    def train(self, script: str, **more: Any) -> Event:
        """Provision and start a Python script, each time as the run's next attempt; what `start` answers."""
        self.attempt += 1 if self.state()["state"] != "none" else 0
        self.provision(["python", "train.py"], {"train.py": script.encode()}, **more)
        return self.start()

    def start(self) -> Event:
        state: Event = self.call("start")[-1]["state"]
        return state

    def state(self) -> Event:
        return self.call("state")[-1]

    def wait_until_over(self, within_s: float = 20.0) -> Event:
        wait_for(lambda: (self.root / "run" / str(self.attempt) / "exit.json").exists(), within_s)
        return self.state()

    def tmux(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["tmux", *words], env=self.environment, capture_output=True, check=False)

    def stand_in(self, name: str, script: str) -> None:
        """Put a command of that name first on the host's PATH."""
        path = self.stand_ins / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def left(self) -> list[int]:
        """Processes that carry this host's mark in their environment, zombies apart."""
        mark = f"GPUCTL_TEST_HOST={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def close(self) -> None:
        """End everything that this host has running."""
        self.tmux("kill-server")
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@dataclass(frozen=True)
class Found:
    """What a manifest tells."""

    files: dict[str, dict[str, Any]]
    links: dict[str, str]
    skipped: dict[str, dict[str, Any]]
    missing: list[str]

    def left(self) -> dict[str, tuple[str, int | None]]:
        """What stays though it holds something: of what kind, and how many files."""
        return {path: (one["kind"], one["files"]) for path, one in self.skipped.items() if one["files"] != 0}


def manifest(host: Host, **request: Any) -> Found:
    """What the host tells of its outputs."""
    *events, _ = host.call("manifest", **request)
    kinds: dict[str, dict[str, Any]] = {kind: {} for kind in ("file", "link", "skipped", "missing")}
    for event in events:
        if event["event"] != "alive":
            kinds[event["event"]][event["path"]] = event
    links = {path: event["to"] for path, event in kinds["link"].items()}
    return Found(kinds["file"], links, kinds["skipped"], list(kinds["missing"]))


def finished(host: Host, script: str, **more: Any) -> None:
    """Run a Python script to its end, which must be good."""
    host.train(script, **more)
    assert host.wait_until_over()["state"] == "succeeded", host.log


@pytest.fixture
def host(host_pyz: Path, tmp_path: Path) -> Iterator[Host]:
    """A host that has booted: its deadline is armed."""
    home, stand_ins, temporary = tmp_path / "home", tmp_path / "bin", tmp_path / "tmp"
    for folder in (home, stand_ins, temporary):
        folder.mkdir()
    tmux_folder = Path(tempfile.mkdtemp(prefix="gp"))  # a socket's path has 107 bytes at most
    environment = {
        **os.environ,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "TMUX_TMPDIR": str(tmux_folder),
        "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}",
        "GPUCTL_TEST_HOST": str(home),
    }
    it = Host(home, tmux_folder, stand_ins, host_pyz, environment)
    for command in ("sudo", "apt-get", "shutdown", "nvidia-smi", "modprobe", "ubuntu-drivers"):
        it.stand_in(command, f'echo "{command} $*" >>"{tmp_path}/asked"; exit 1')
    it.arm()
    yield it
    it.close()
    try:
        wait_for(lambda: not it.left(), 15)
    finally:
        for pid in it.left():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(tmux_folder, ignore_errors=True)
