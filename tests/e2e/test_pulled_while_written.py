"""Outputs that are being written while they are pulled."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from e2e_tool import Gpuctl

FILES = 200
WRITER = """
import hashlib, os, time

out = os.environ["GPUCTL_OUTPUTS"]

def content(i):
    body = os.urandom(20_000 + 100 * i)
    return hashlib.sha256(body).hexdigest().encode() + body

def rename_into_place(i):
    with open(f"{out}/renamed-{i}.part", "wb") as file:
        file.write(content(i))
    os.replace(f"{out}/renamed-{i}.part", f"{out}/renamed-{i}.pt")

def write_all():
    contents = [content(i) for i in range(100)]
    files = [open(f"{out}/in-place-{i}.pt", "wb", buffering=0) for i in range(100)]
    for tenth in range(10):  # each file in place is part of itself for more than a second
        for file, data in zip(files, contents):
            size = len(data) // 10 + 1
            file.write(data[tenth * size:(tenth + 1) * size])
        for i in range(tenth, 100, 10):
            rename_into_place(i)
        time.sleep(0.15)
    for file in files:
        file.close()

pause = 2.5  # long enough for a file to be known as whole, and on a machine too busy for that soon longer
try:
    while True:
        print("writing", flush=True)
        write_all()
        time.sleep(pause)
        pause *= 1.2
except KeyboardInterrupt:
    write_all()
"""


@pytest.mark.prove
def test_every_file_at_home_is_whole(gpuctl: Gpuctl, project: Path) -> None:
    """200 files are written, half by renaming and half in place, while they are pulled: what is at home has the
    checksum that it was written with; in the end all are, and the next pull moves only what has changed."""
    (project / "write.py").write_text(WRITER)
    gpuctl("launch", str(project), "--name", "toy", "-d", "--", "python", "write.py")
    home, seen = gpuctl.folder / "home/outputs", set()
    end = time.monotonic() + 15
    while time.monotonic() < end or len(seen) < FILES:
        gpuctl("pull", "toy", "home")
        seen |= whole_files(home)
        assert time.monotonic() < end + 300, f"only {len(seen)} files came home"

    assert gpuctl.json("stop", "toy")["state"] == "stopped"
    gpuctl("pull", "toy", "home")
    assert len(whole_files(home)) == FILES
    again = gpuctl.json("pull", "toy", "home")
    assert (again["files"], again["bytes"]) == ([], 0)
    gpuctl("ssh", "toy", "--", "sh", "-c", "cd gpuctl/work/outputs && cp renamed-0.pt x && mv x in-place-7.pt")
    assert gpuctl.json("pull", "toy", "home")["files"] == ["outputs/in-place-7.pt"]
    assert (home / "in-place-7.pt").read_bytes() == (home / "renamed-0.pt").read_bytes()
    gpuctl("down", "toy", "-y")


def whole_files(home: Path) -> set[str]:
    """The names of the files at home; each must hold what its writer made the checksum of."""
    for path in home.iterdir():
        data = path.read_bytes()
        assert hashlib.sha256(data[64:]).hexdigest().encode() == data[:64], f"{path.name} is not whole"
    return {path.name for path in home.iterdir()}
