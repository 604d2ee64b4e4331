"""Whatever way a command writes, what it wrote is home or was named before anything is removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from e2e_tool import Gpuctl, the_error

from gpuctl.core.outputs import Left
from gpuctl.core.text import safe
from gpuctl.remote.pull import Transfer
from gpuctl.workflows.pull import PullResult, not_home

NOT_UTF8 = os.fsdecode(b"caf\xe9.pt")
DEEP = "/".join(["d"] * 80)
WRITE = """
import mmap, os, socket, subprocess, sys, tempfile
home, deep, not_utf8 = os.path.expanduser("~"), {deep!r}, {not_utf8!r}

def put(path, size=0):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as file:
        file.write("written")
        if size:
            file.truncate(size)

for path in ("outputs/log.txt", "run-7/weights.pt", "data/processed/train.bin", "wandb/run-1/files/model.h5",
             ".hydra/config.yaml", "lightning_logs/version_0/checkpoints/epoch=2.ckpt", "old.pt", "secret.pt", not_utf8,
             "two\\nlines.pt", "shut/m.pt", "config.json", "~/literal.pt", "../sibling/m.pt", home + "/out/m.pt",
             home + "/.cache/m.pt", tempfile.gettempdir() + "/exp/m.pt"):
    put(path)
put("sparse.bin", 3 << 30)
put("checkpoints/model.safetensors", 5 << 20)
os.remove("helper.py"); put("helper.py")
os.rename("module.py", "renamed.py")
os.link("run-7/weights.pt", "hard.pt")
os.symlink("run-7/weights.pt", "last.ckpt")
os.symlink(home + "/.cache/m.pt", "outside.pt")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("sock")
os.utime("old.pt", (-10, -10))
os.chmod("secret.pt", 0)
os.chmod("shut", 0o555)
os.makedirs("deep")
folder = os.open("deep", os.O_RDONLY)
for name in deep.split("/"):
    os.mkdir(name, dir_fd=folder)
    folder = os.open(name, os.O_RDONLY, dir_fd=folder)
os.write(os.open("m.pt", os.O_CREAT | os.O_WRONLY, dir_fd=folder), b"written")
put("mapped.bin", 4096)
held = open("mapped.bin", "r+b")
mmap.mmap(held.fileno(), 4096)[:7] = b"WRITTEN"
for_ever = ("import random, time\\nwhile True: open('for-ever.bin', 'wb').write(b'x' * random.randrange(10 ** 6));"
            "time.sleep(0.002)")
subprocess.Popen([sys.executable, "-c", for_ever], start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""

HOME = [
    *("outputs/log.txt", "run-7/weights.pt", "data/processed/train.bin", "wandb/run-1/files/model.h5"),
    *(".hydra/config.yaml", "lightning_logs/version_0/checkpoints/epoch=2.ckpt", "old.pt", "config.json", "helper.py"),
    *("renamed.py", "hard.pt", "last.ckpt", "two\nlines.pt", "shut/m.pt", "~/literal.pt", NOT_UTF8, "mapped.bin"),
    "checkpoints/model.safetensors",
]
"""What comes home by itself: patterns, links, odd names and times, code that was written anew, a large checkpoint."""
TOLD = [
    *("sparse.bin (3.2 GB: ", f"deep/{'d/' * 64} (", "~/out/ (7 B: ", "~/gpuctl/sibling/ (7 B: ", "/exp/ (7 B: "),
    *("outside.pt -> ", "pipe: ", "sock: ", "not downloaded yet, still being written: for-ever.bin"),
    "it runs on, and may write more",
]
"""What does not, and is named, with its size where it has one."""


def test_each_way_to_write_ends_at_home_or_is_named(gpuctl: Gpuctl, project: Path) -> None:
    """Twenty-eight ways: eighteen come home, whole; nine are named; a file that its owner may not read is either. The
    unattended line then stops, exit code 1, and says what to type; nothing has been removed."""
    for name in ("config.json", "helper.py", "module.py"):
        (project / name).write_text("came along")
    (project / "write.py").write_text(WRITE.format(deep=DEEP, not_utf8=NOT_UTF8))
    words = ("--pull", "home", "--max-size", "1MB", "--down", "--", "python", "write.py")
    answer = gpuctl("launch", str(project), "--name", "ways", "-y", *words, code=1)
    home = gpuctl.folder / "home"
    lost = [name for name in HOME if not (home / name).is_file()]
    lost += [told for told in TOLD if told not in answer.err]
    assert lost == [] and (home / "secret.pt").is_file() != ("secret.pt (7 B: " in answer.err)

    for name in set(HOME) - {"mapped.bin", "renamed.py", "checkpoints/model.safetensors"}:
        assert (home / name).read_text() == "written", safe(name)
    assert (home / "mapped.bin").read_bytes()[:8] == b"WRITTEN\0"
    assert os.readlink(home / "last.ckpt") == "run-7/weights.pt"
    assert not (home / "train.py").exists() and (home / "checkpoints/model.safetensors").stat().st_size == 5 << 20
    error = the_error(answer)
    assert "not all of ways was downloaded" in error and "--discard" in error and "--max-size none" in error
    assert gpuctl.json("ls")["runs"][0]["state"] == "succeeded"

    gpuctl("ssh", "ways", "--", "mv", "out", "gpuctl/work/")
    pulled = gpuctl.json("pull", "ways", code=1)
    assert (home / "out/m.pt").read_text() == "written" and pulled["complete"] is False
    refused = gpuctl("down", "ways", "-y", "--json", code=1)
    (failed,) = json.loads(refused.out)["failed"]
    assert "sparse.bin" in the_error(refused) and failed["run"] == "ways" and "sparse.bin" in failed["error"]
    assert gpuctl.json("down", "ways", "--discard")["left"] == []


def test_what_to_type_brings_it_home(tmp_path: Path) -> None:
    """Another folder helps where something stands in a file's place; never where its name may be written nowhere."""
    named = {"home": f"gpuctl pull mine {tmp_path / 'mine'}", "name": "rename it", "reserved": "rename it"}
    steps = [(Left(".ssh/id", "why", kind, files=1), step) for kind, step in named.items()]
    steps.append((Left("process 812", "worker.py: it runs on", "running"), "gpuctl ssh mine -- kill 812"))
    steps.append((Left("process 1; rm", "?", "running"), "look at it: gpuctl ssh mine;"))
    for one, step in steps:
        left = (one,)
        result = Transfer((), 0, (), left, (), (), 0, {}, training="succeeded", over=True)
        error = not_home("mine", PullResult(tmp_path, result))
        assert error is not None and step in str(error.next_step), one
