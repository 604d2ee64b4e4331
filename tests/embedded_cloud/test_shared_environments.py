"""What hosts have installed does not fill the disk, and what one of them uses stays."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from gpuctl.embedded_cloud.shared_environments import listed, remove_unused, total_bytes

MIB = 1 << 20


def environment(folder: Path, name: str, *, unused_s: float, whole: bool = True) -> Path:
    """An environment of a MiB that was last used so long ago."""
    path = folder / name
    (path / "lib").mkdir(parents=True)
    (path / "lib/module.py").write_bytes(os.urandom(MIB))
    if whole:
        (path / "gpuctl-whole").touch()
        then = time.time() - unused_s
        os.utime(path / "gpuctl-whole", (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_those_that_were_not_used_for_longest_go_first(tmp_path: Path) -> None:
    """As many as it takes; what a build that was killed left goes whatever the limit, and a running build stays."""
    for days in (5, 3, 1):
        environment(tmp_path, f"unused-{days}", unused_s=days * 86400)
    environment(tmp_path, "killed", unused_s=0, whole=False)
    environment(tmp_path, "built-now", unused_s=0, whole=False)
    with open(tmp_path / "built-now.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sizes = {one.path.name: one.bytes for one in listed(tmp_path)}
        assert all(MIB <= size < 1.1 * MIB for size in sizes.values())
        gone = remove_unused(tmp_path, hosts=tmp_path / "no hosts", limit_bytes=int(3.5 * MIB))
        assert {one.path.name for one in gone} == {"killed", "unused-5"}
        assert names(tmp_path) == {"unused-3", "unused-1", "built-now"}
        assert total_bytes(listed(tmp_path)) < 3.5 * MIB
    remove_unused(tmp_path, hosts=tmp_path / "no hosts")
    assert names(tmp_path) == set()


def test_what_a_host_uses_or_has_just_found_stays(tmp_path: Path) -> None:
    """Though it was made long ago, and is all that is left above the limit."""
    folder, hosts = tmp_path / "environments", tmp_path / "hosts"
    used = environment(folder, "used", unused_s=9 * 86400)
    environment(folder, "found", unused_s=1)
    environment(folder, "unused", unused_s=3600)
    for number, record in enumerate((json.dumps({"environment": str(used)}), json.dumps({"environment": None}), "{")):
        home = hosts / f"i-{number}/home/gpuctl"
        home.mkdir(parents=True)
        (home / "provisioned.json").write_text(record)
    before = [one.used_at for one in listed(folder)]
    assert [one.path.name for one in remove_unused(folder, hosts=hosts)] == ["unused"]
    assert names(folder) == {"used", "found"}
    assert [one.used_at for one in listed(folder)] == [before[0], before[2]]  # to be looked at is not to be used
