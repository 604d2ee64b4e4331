"""`manifest` and `send`: what a run leaves, byte for byte, and nothing that is not its."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from payload_host import Host, manifest, wait_for

from provisioning.outputs import manifest_verb
from provisioning.paths import Paths
from provisioning.protocol import Channel

HOSTILE = [
    "-rf",
    "--checkpoint-action=exec=sh",
    "$(touch hacked)",
    "`id`",
    "new\nline",
    "tab\tand\rreturn",
    "quote'\"s",
    "back\\slash",
    " spaces ",
    "ünïcode",
    os.fsdecode(b"not-utf8-\xff\xfe"),
    "\x1b[2J",
    "*",
    "n" * 250,
]


def listing(host: Host) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, Any]]:
    """Files by path, what was skipped and why, and the last event."""
    *events, last = host.call("manifest")
    files = {event["path"]: event for event in events if event["event"] == "file"}
    return files, {event["path"]: event["why"] for event in events if event["event"] == "skipped"}, last


def test_names_and_bytes_are_kept(host: Host) -> None:
    """Whatever a file is called, it is listed and sent under that very name."""
    host.provision(["true"], outputs={"paths": ["outputs"]})
    for name in HOSTILE:
        folder = host.work / "outputs" / name
        folder.mkdir(parents=True)
        (folder / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    host.start()
    files, skipped, last = listing(host)
    paths = [path for path in files if not path.startswith("gpuctl/")]
    assert sorted(paths) == sorted(f"outputs/{name}/{name}" for name in HOSTILE)
    assert skipped == {}
    assert last["files"] == len(files)
    assert last["bytes"] == sum(file["size"] for file in files.values())
    sent, events = host.send(paths)
    for name in HOSTILE:
        member, content = sent[f"outputs/{name}/{name}"]
        assert content == name.encode("utf-8", "surrogateescape")
        assert member.isreg()
        assert abs(float(member.mtime) - files[member.name]["mtime_ns"] / 1e9) < 1e-6
    assert [(event["path"], event["whole"]) for event in events[:-1]] == [(path, True) for path in paths]
    assert events[-1] == {"event": "done", "files": len(paths)}


def test_what_is_no_regular_file_is_named_and_left(host: Host, tmp_path: Path) -> None:
    """Sockets, fifos and links that lead out are told, and hold nothing; a link to what is listed is one."""
    host.provision(["true"], outputs={"paths": ["outputs", "link-outputs"]})
    outputs = host.work / "outputs"
    outputs.mkdir()
    (tmp_path / "secret").write_text("secret")
    (outputs / "good.pt").write_text("good")
    (outputs / "passwd").symlink_to("/etc/passwd")
    (outputs / "up").symlink_to("../../..")
    (outputs / "latest.pt").symlink_to("good.pt")
    (host.work / "link-outputs").symlink_to(tmp_path)
    os.mkfifo(outputs / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        here = Path.cwd()
        os.chdir(outputs)  # a socket's path has 107 bytes at most
        try:
            unix.bind("sock")
        finally:
            os.chdir(here)
        host.start()
        found = manifest(host)
    assert set(found.files) == {"gpuctl/log", "outputs/good.pt"}
    assert found.links == {"outputs/latest.pt": "outputs/good.pt"}
    assert {path for path, left in found.skipped.items() if left["files"] == 0} == {
        *(f"outputs/{name}" for name in ("passwd", "up", "fifo", "sock")),
        "link-outputs",
    }
    assert "/etc/passwd" in found.skipped["outputs/passwd"]["why"]


OUTSIDE = [
    *("/etc/passwd", "../spec.json", "outputs/../../spec.json", "outputs/link", "linked/passwd"),
    *("outputs/fifo", "outputs", "", ".", "no", "nul\0"),
]


def test_nothing_outside_is_ever_sent(host: Host) -> None:
    """A path that leaves the workspace, by its text or by a link, is skipped; the rest is sent."""
    host.provision(["true"], {"good": b"good", "outputs/x": b"x"})
    (host.work / "outputs/link").symlink_to("/etc/passwd")
    (host.work / "linked").symlink_to("/etc")
    os.mkfifo(host.work / "outputs/fifo")
    sent, events = host.send([*OUTSIDE, "good"])
    assert list(sent) == ["good"]
    assert [event["path"] for event in events if event["event"] == "skipped"] == OUTSIDE
    assert [event["path"] for event in events if event["event"] == "sent"] == ["good"]


def test_log_and_metrics_are_outputs_too(host: Host) -> None:
    """They are listed under gpuctl's name, complete at any time, and a workspace's own file is not taken for them."""
    script = """
import os, time
open(os.environ["GPUCTL_METRICS"], "w").write('{"step": 1}\\n')
os.makedirs("outputs/gpuctl", exist_ok=True); open("outputs/gpuctl/log", "w").write("mine")
print("up", flush=True); time.sleep(60)
"""
    host.train(script)
    files, _, last = listing(host)
    assert last["state"]["state"] == "running"
    assert files["gpuctl/log"]["complete"] and files["gpuctl/metrics.jsonl"]["complete"]
    sent, events = host.send(["gpuctl/log", "gpuctl/metrics.jsonl", "outputs/gpuctl/log"])
    assert [content for _, content in sent.values()] == [b"up\n", b'{"step": 1}\n', b"mine"]
    assert [event["whole"] for event in events[:2]] == [True, True]
    host.call("stop", grace_s=1)


def test_a_young_file_is_not_complete_until_training_has_ended(host: Host) -> None:
    """While it trains, a file counts once it has been left alone for two seconds, whatever its mtime says."""
    script = """
import os, time
open("outputs/old.pt", "w").write("old")
print("up", flush=True)
while True:
    open("outputs/young.pt", "w").write("young"); os.utime("outputs/young.pt", (1, 1))
    time.sleep(0.2)
"""
    host.train(script)
    files = wait_for(lambda: (found := listing(host)[0])["outputs/old.pt"]["complete"] and found)
    assert files["outputs/young.pt"]["complete"] is False
    _, events = host.send(["outputs/young.pt", "outputs/old.pt"])
    assert [event["whole"] for event in events[:2]] == [False, True]
    host.call("stop", grace_s=3)
    assert listing(host)[0]["outputs/young.pt"]["complete"] is True


def test_a_writer_that_pauses_is_not_taken_for_done(host: Host) -> None:
    """What training holds open to write in place is not complete after two seconds; a log that it appends to is."""
    script = """
import time
half, log = open("outputs/half.pt", "wb", buffering=0), open("outputs/log.txt", "ab", buffering=0)
half.write(b"half"); log.write(b"line\\n")
print("up", flush=True); time.sleep(600)
"""
    host.train(script)
    files = wait_for(lambda: (found := listing(host)[0])["outputs/log.txt"]["complete"] and found)
    assert files["outputs/half.pt"]["complete"] is False
    _, events = host.send(["outputs/half.pt"])
    assert events[0]["whole"] is False
    host.call("stop", grace_s=1)


WRITERS = """
import os, random, time
random.seed(0)

def content(name, version):
    return (b"%s %d " % (name.encode(), version)) * random.randrange(10, 4000)

print("up", flush=True)
version, began = 0, time.time()
while time.time() - began < 300:
    version += 1
    for i in range(100):
        data = content(f"r{i}", version)
        with open(f"outputs/.r{i}.tmp", "wb") as file:
            file.write(data + b"END")
        os.replace(f"outputs/.r{i}.tmp", f"outputs/r{i}.pt")
        data = content(f"p{i}", version)
        with open(f"outputs/p{i}.pt", "wb", buffering=0) as file:
            for start in range(0, len(data), 2000):
                file.write(data[start:start + 2000])
                if random.random() < 0.05:
                    time.sleep(0.001)
            file.write(b"END")
    if version % 2:
        time.sleep(2.6)
"""


def test_whole_means_whole_while_everything_is_written(host: Host) -> None:
    """Two hundred files are rewritten, half by renaming, half in place: what is sent as whole has the checksum that is
    told, ends where its writer ended it, and is of one version."""
    host.train(WRITERS)
    whole = 0
    end = time.monotonic() + 10
    while time.monotonic() < end or whole < 100:
        files, _, last = listing(host)
        wanted = [path for path, file in files.items() if file["complete"] and path.endswith(".pt")]
        sent, events = host.send(wanted) if wanted else ({}, [])
        for event in events:
            # A file that is being truncated has its new size an instant before its new mtime: so sizes are compared.
            if event["event"] == "sent" and event["whole"] and event["size"] == files[event["path"]]["size"]:
                content = sent[event["path"]][1]
                whole += 1
                assert hashlib.sha256(content).hexdigest() == event["sha256"]
                assert content.endswith(b"END")
                assert len(set(content[:-3].split()[1::2])) == 1
        assert last["state"]["state"] == "running"
    host.call("stop", grace_s=5)
    files, _, _ = listing(host)
    paths = [path for path in files if path.startswith("outputs/r")]
    _, events = host.send(paths)
    assert all(event["whole"] for event in events[:-1])


def test_a_file_that_shrinks_while_it_is_read(host: Host) -> None:
    """The stream stays a tar: what is missing is zeros, and the file is told as not whole."""
    host.provision(["true"], {"big.bin": b"x" * (8 << 20), "after": b"after"})
    process = host.open("send")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(json.dumps({"schema": 1, "paths": ["big.bin", "after"]}).encode() + b"\n")
    process.stdin.close()
    process.stdin = None
    wait_for(lambda: blocked(process.pid))
    os.truncate(host.work / "big.bin", 4096)
    with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
        sizes = {member.name: member.size for member in tar}
    events = [json.loads(line) for line in process.stderr]
    assert process.wait(10) == 0
    assert sizes == {"big.bin": 8 << 20, "after": 5}
    assert [event["whole"] for event in events if event["event"] == "sent" and event["path"] == "big.bin"] == [False]


def blocked(pid: int) -> bool:
    """True while a process sleeps in a write to a full pipe."""
    return "pipe_w" in Path(f"/proc/{pid}/wchan").read_text() or Path(f"/proc/{pid}/syscall").read_text().startswith(
        "1 "
    )


def test_each_word_comes_before_the_stream_goes_on(host: Host) -> None:
    """Who reads the tar file by file, and waits after each for what is said of it, is never left waiting."""
    names = [f"outputs/{i}" for i in range(300)]
    host.provision(["true"], {name: os.urandom(3000) for name in names})
    process = host.open("send")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(json.dumps({"schema": 1, "paths": names}).encode() + b"\n")
    process.stdin.close()
    process.stdin = None
    with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            data = content.read()
            said = json.loads(process.stderr.readline())
            assert (said["path"], said["sha256"]) == (member.name, hashlib.sha256(data).hexdigest())
    assert process.wait(10) == 0


def test_many_files_are_all_listed(host: Host) -> None:
    """Each of five thousand small files."""
    host.provision(["true"], outputs={"paths": ["outputs"]})
    for folder in range(5):
        (host.work / f"outputs/{folder}").mkdir(parents=True)
        for name in range(1000):
            os.close(os.open(host.work / f"outputs/{folder}/{name}", os.O_CREAT | os.O_WRONLY, 0o644))
    files, _, last = listing(host)
    assert last["files"] == len(files) == 5_000


def test_folders_too_deep_are_named(host: Host) -> None:
    """A nest without end is cut, and said to be."""
    host.provision(["true"], outputs={"paths": ["outputs"]})
    folder = host.work / "outputs"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    _, skipped, _ = listing(host)
    assert len(skipped) == 1
    assert "deeper than" in next(iter(skipped.values()))
    assert next(iter(manifest(host).left().values())) == ("deep", None)


def test_what_cannot_be_read_is_named(host: Host) -> None:
    """A file without permission is listed and, where it cannot be opened, said so; the rest is sent."""
    host.provision(["true"], {"outputs/secret": b"s", "outputs/good": b"g"})
    (host.work / "outputs/secret").chmod(0)
    sent, events = host.send(["outputs/secret", "outputs/good"])
    assert "outputs/good" in sent
    assert len(events) == 3


def test_one_bad_block_loses_one_file(host: Host) -> None:
    """A file that the disk does not give to its end is told, with the disk's word; the rest is sent."""
    kernels = Path("/sys/class/net/lo")  # it says that `speed` has 4096 bytes, and reading one of them is an error
    try:
        (kernels / "speed").read_bytes()
    except OSError as error:
        said = str(error.strerror)
    else:
        pytest.skip("no file here that cannot be read")
    host.provision(["true"])
    host.work.rmdir()
    host.work.symlink_to(kernels)
    sent, events = host.send(["speed", "address"])
    assert sent["speed"][1] == bytes(4096) and sent["address"][1].startswith(b"00:")
    told = [(event["event"], event.get("path"), event.get("whole")) for event in events]
    assert told[:3] == [("sent", "speed", False), ("skipped", "speed", None), ("sent", "address", False)]
    assert events[0]["sha256"] == hashlib.sha256(bytes(4096)).hexdigest() and said in events[1]["why"]


class _Slow:
    """A look that takes its time before each thing that it does."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return self._real(*arguments, **options)


@pytest.mark.parametrize(
    "place", ["provisioning.listing._names", "provisioning.listing._sha256", "provisioning.elsewhere._names"]
)
def test_a_slow_listing_says_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Whether folders, the code's content or what lies outside takes long: the laptop hears of it meanwhile."""
    module, _, name = place.rpartition(".")
    monkeypatch.setattr(place, _Slow(getattr(importlib.import_module(module), name)))
    monkeypatch.setattr("provisioning.outputs.ALIVE_S", 0.01)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    paths = Paths(tmp_path / "gpuctl", tmp_path / "envs")
    paths.work.mkdir(parents=True)
    (paths.work / "train.py").write_text("pass")
    status = (paths.work / "train.py").stat()
    paths.code.write_text(json.dumps({"train.py": [status.st_size, status.st_mtime_ns, "1f"]}))
    os.utime(paths.code, (1, 1))
    (paths.run / "1").mkdir(parents=True)
    (paths.run / "1" / "state.json").write_text(json.dumps({"state": "running", "started": 1.0, "pid": 1}))
    (paths.run / "1" / "exit.json").write_text(json.dumps({"state": "succeeded", "exit_code": 0, "ended": 2.0}))
    said = io.BytesIO()
    assert manifest_verb(paths, Channel(io.BytesIO(b'{"schema": 1}\n'), said)) == 0
    *events, last = [json.loads(line)["event"] for line in said.getvalue().splitlines()]
    assert events.count("alive") >= 3 and "file" in events and last == "manifest"
