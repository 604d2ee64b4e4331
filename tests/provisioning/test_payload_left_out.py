"""All that the command wrote is listed, or told with its size and why it does not come."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from payload_host import Host, finished, manifest


def test_a_run_whose_job_names_no_outputs(host: Host) -> None:
    """All that the command wrote is listed, at any depth and by any name, beside a filled `outputs/` too: less its
    code, and what is made again by itself."""
    script = """
import os
for path in ("model.pt", "deep/er/x.txt", "data/mnist.bin", "wandb/x", "pkg/__pycache__/a.pyc", "env/pyvenv.cfg",
             "env/lib/big.so", ".git/HEAD", "config.json", "outputs/log.txt", "~/out/x", ".hydra/x", "node_modules/x"):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    open(path, "w").write("written")
os.rename("lib/code.py", "lib/renamed.py")
"""
    host.provision(
        ["python", "t.py"],
        {"t.py": script.encode(), "config.json": b"{}", "lib/code.py": b"", "data/own.txt": b"came along"},
    )
    host.start()
    host.wait_until_over()
    found = manifest(host)
    wrote = ("model.pt", "deep/er/x.txt", "config.json", "data/mnist.bin", "wandb/x", "outputs/log.txt", "~/out/x")
    assert set(found.files) == {"gpuctl/log", *wrote, ".hydra/x", "lib/renamed.py"}
    assert found.skipped == {} and found.missing == []


def test_code_that_was_changed_and_given_back_its_time_is_listed(host: Host) -> None:
    """The same size and mtime do not make a file what came along: where it was touched since, its content tells."""
    script = """
import os
status = os.stat("weights.bin")
with open("weights.bin", "r+b") as file:
    file.write(b"new")
os.utime("weights.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
os.chmod("same.bin", 0o600)
"""
    host.provision(["python", "t.py"], {"t.py": script.encode(), "weights.bin": b"old", "same.bin": b"1"})
    host.start()
    host.wait_until_over()
    assert set(manifest(host).files) == {"gpuctl/log", "weights.bin"}


def test_a_link_in_the_place_of_code_is_told(host: Host, tmp_path: Path) -> None:
    """A file that came along and is a link now: what it leads to in the workspace, and where it leads outside."""
    script = f"""
import os
open("new.pt", "w").write("new")
os.remove("best.pt"), os.symlink("new.pt", "best.pt")
open({str(tmp_path / "away.csv")!r}, "w").write("new")
os.remove("data.csv"), os.symlink({str(tmp_path / "away.csv")!r}, "data.csv")
"""
    host.provision(["python", "t.py"], {"t.py": script.encode(), "best.pt": b"old", "data.csv": b"old"})
    host.start()
    host.wait_until_over()
    found = manifest(host)
    assert set(found.files) == {"gpuctl/log", "new.pt"} and found.links == {"best.pt": "new.pt"}
    assert f"data.csv -> {tmp_path / 'away.csv'}" in found.left()


def test_size_is_a_question_and_never_drops_a_checkpoint(host: Host) -> None:
    """What is larger than asked for is told with its number, alone or as a folder; checkpoints and `outputs/` come."""
    script = """
import os
def put(path, size):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
put("checkpoints/model.pt", 5 << 30); put("outputs/samples.bin", 5 << 30); put("scratch.bin", 3 << 30)
put("logs/trace.json", 3 << 30); put("logs/small.txt", 10); put("data/model.pt", 4 << 30)
for number in range(9):
    put(f"data/part-{number}", 300 << 20)
"""
    finished(host, script)
    found = manifest(host)
    listed = {"gpuctl/log", "checkpoints/model.pt", "outputs/samples.bin", "logs/small.txt", "data/model.pt"}
    assert set(found.files) == listed
    assert found.left() == {"scratch.bin": ("size", 1), "logs/trace.json": ("size", 1), "data/": ("size", 9)}
    assert (found.skipped["data/"]["bytes"], found.skipped["scratch.bin"]["bytes"]) == (9 * 300 << 20, 3 << 30)
    assert set(manifest(host, max_size=4 << 30).files) == {
        *(*listed, "scratch.bin", "logs/trace.json"),
        *(f"data/part-{number}" for number in range(9)),
    }
    assert manifest(host, max_size=None).left() == {}


def test_named_outputs_are_patterns_and_what_else_was_written_is_told(host: Host) -> None:
    """As ignore files have them: each file once; what matches nothing, and what no pattern means, is told."""
    script = """
import os
for path in ("runs/a/m.pt", "runs/a/x.txt", "final.pt", "best.ckpt", "data/x/train.bin", "data/y", "odd.log",
             "a/tmp/s"):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    open(path, "w").write("12345")
"""
    outputs = {"paths": ["*.pt", "runs/*/x.txt", "*.ckpt", "checkpoints/"], "exclude": ["tmp/", "./odd.log"]}
    finished(host, script, outputs=outputs)
    found = manifest(host)
    assert set(found.files) == {"gpuctl/log", "runs/a/m.pt", "runs/a/x.txt", "final.pt", "best.ckpt"}
    assert found.missing == ["checkpoints/"]
    assert found.left() == {"data/": ("unnamed", 2)} and found.skipped["data/"]["bytes"] == 10
    everything = manifest(host, everything=True)
    assert {"data/y", "odd.log", "a/tmp/s"} <= set(everything.files)
    assert everything.missing == [] and everything.left() == {}


def test_everything_is_no_less_than_what_the_job_names(host: Host) -> None:
    """What is named comes though it is made again by itself, and as large as it is, whatever else is asked for."""
    script = """
import os
os.makedirs("runs"), os.makedirs("outputs")
for path in (".cache/models/m.bin", ".cache/other", "outputs/m.pt", "train.pyc", "runs/big.bin", "plain"):
    open(path, "w").write("12345")
os.truncate("runs/big.bin", 3 << 30)
"""
    finished(host, script, outputs={"paths": [".cache/models/", "outputs/", "*.pyc", "runs/", "never/"]})
    named = {"gpuctl/log", ".cache/models/m.bin", "outputs/m.pt", "train.pyc", "runs/big.bin"}
    assert set(manifest(host).files) == named
    everything = manifest(host, everything=True)
    assert set(everything.files) == {*named, "plain"} and everything.left() == {} and everything.missing == []


def test_a_pattern_does_not_name_the_folder_that_a_command_is_given(host: Host) -> None:
    """`GPUCTL_OUTPUTS` is what of the first path is no pattern."""
    script = "import os\nopen(os.environ['GPUCTL_OUTPUTS'] + '/m.pt', 'w').write('1')"
    finished(host, script, outputs={"paths": ["runs/*/m.pt", "runs/m.pt"]})
    assert set(manifest(host).files) == {"gpuctl/log", "runs/m.pt"}


def test_what_was_written_outside_the_workspace_is_told(host: Host) -> None:
    """In HOME, beside the workspace, among temporary files where it is a checkpoint, and where links lead: told by its
    name and size. What was there before, caches, gpuctl's own and what is temporary is not."""
    (host.home / "old").write_text("here before")
    script = """
import os, tempfile
home = os.path.expanduser("~")
def put(path, text="12345"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(text)
put(home + "/out/deep/model.pt"); put(home + "/out/log"); put("../out/model.pt"); put("../run/mine.pt")
put(home + "/.cache/hub/x.pt"); put(home + "/.bash_history"); put(home + "/empty", "")
put(tempfile.gettempdir() + "/exp/m.pt"); put(tempfile.gettempdir() + "/scratch/x"); tempfile.mkdtemp()
os.symlink(home + "/.cache/hub/x.pt", "last.pt"); os.symlink("../..", "up"); os.symlink("/", "root")
os.symlink("/etc/passwd", "passwd")
"""
    finished(host, script)
    found = manifest(host)
    temporary = Path(host.environment["TMPDIR"])
    assert found.left() == {
        "~/out/": ("outside", 2),
        "~/gpuctl/out/": ("outside", 1),
        "~/gpuctl/run/mine.pt": ("outside", 1),
        f"{temporary}/exp/": ("outside", 1),
        f"last.pt -> {host.home}/.cache/hub/x.pt": ("outside", 1),
    }
    assert found.skipped["~/out/"]["bytes"] == 10
    assert {path for path, one in found.skipped.items() if one["files"] == 0} == {"last.pt", "up", "root", "passwd"}


def test_a_link_that_the_command_made_is_told(host: Host, tmp_path: Path) -> None:
    """In the place of a file that came along, to where its content lies now; and to a folder that does not come."""
    outside = tmp_path / "scratch"
    script = f"""
import os
os.makedirs({str(outside)!r})
open({str(outside / "m.pt")!r}, "w").write("new")
os.remove("m.pt"); os.symlink({str(outside / "m.pt")!r}, "m.pt")
os.makedirs(".cache/best")
open(".cache/best/m.pt", "w").write("best")
os.symlink(".cache/best", "best")
"""
    host.provision(["python", "t.py"], {"t.py": script.encode(), "m.pt": b"old"})
    host.start()
    host.wait_until_over()
    found = manifest(host)
    assert set(found.files) == {"gpuctl/log"} and found.links == {}
    assert found.skipped["best"]["files"] is None
    assert found.skipped[f"m.pt -> {outside}/m.pt"]["files"] == 1


def test_links_into_memory_are_looked_behind(host: Host) -> None:
    """The kernel's own folders hold nothing of anybody's, but for two; and a name may begin as theirs do."""
    with ExitStack() as made:
        places = {"shm": made.enter_context(TemporaryDirectory(dir="/dev/shm"))}
        if os.access("/", os.W_OK):
            places["like"] = made.enter_context(TemporaryDirectory(dir="/", prefix="runs_"))
        script = "import os\nos.symlink('/dev/null', 'null'), os.symlink('/proc', 'proc')\n"
        for name, place in places.items():
            script += f"open('{place}/m.pt', 'w').write('m'); os.symlink('{place}', '{name}')\n"
        finished(host, script)
        assert manifest(host).left() == {f"{name} -> {place}/": ("outside", 1) for name, place in places.items()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_looked_into_is_told(host: Host) -> None:
    """A file or folder without permission is not passed over."""
    finished(
        host,
        "import os\nos.mkdir('shut'); open('secret.pt', 'w').write('1')\nos.chmod('secret.pt', 0); os.chmod('shut', 0)",
    )
    try:
        assert manifest(host).left() == {"secret.pt": ("unreadable", 1), "shut/": ("unreadable", None)}
    finally:
        (host.work / "shut").chmod(0o700)


def test_times_that_no_clock_knows(host: Host) -> None:
    """Before 1970 and long after 2262 are times like any other."""
    script = """
import os
for name, at in (("old", -10), ("late", 16 * 10**9)):
    open(name, "w").write("1"); os.utime(name, (at, at))
"""
    finished(host, script)
    files = manifest(host).files
    assert files["old"]["mtime_ns"] == -10 * 10**9 and files["late"]["mtime_ns"] > 0
    sent, events = host.send(["old", "late"])
    assert float(sent["old"][0].mtime) == -10.0
    assert [event["whole"] for event in events[:-1]] == [True, True]


def test_listing_and_sending_write_nothing(host: Host) -> None:
    """A host whose disk is full can still be asked for what it has: nothing below `~/gpuctl` changes."""
    finished(host, "open('outputs/m.pt', 'w').write('m')")

    def seen() -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in host.root.rglob("*")}

    before = seen()
    host.send(list(manifest(host).files))
    assert seen() == before
