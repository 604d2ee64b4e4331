"""A thousand small files home: `gpuctl pull` beside a plain tar over ssh, which checks and remembers nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import count
from pathlib import Path

from benchmarks.bench_tools import Cloud, Part, Tool, medians, milliseconds, run

FILES = 1000
RUN = "files"


def measure(cloud: Cloud, tool: Tool, project: Path, folder: Path, rounds: int) -> Part:
    """Whole processes, interleaved; each of the first two into a new folder."""
    words = ["-d", "-y", "--", "python", "train.py", str(FILES)]
    run([tool.gpuctl, "launch", str(project), "--name", RUN, *words], cloud.environment)
    known = subprocess.run(
        [tool.gpuctl, "status", RUN, "--json"], env=cloud.environment, stdout=subprocess.PIPE, check=True
    )
    config = json.loads(known.stdout)["ssh_config"]
    numbers = count()

    def new_folder() -> Path:
        return folder / f"home-{next(numbers)}"

    def plain() -> None:
        into = new_folder()
        into.mkdir()
        ssh = ["ssh", "-F", config, RUN, "tar -C gpuctl/work -cf - outputs"]
        with subprocess.Popen(ssh, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as sender:
            subprocess.run(["tar", "-C", str(into), "-xf", "-"], stdin=sender.stdout, check=True)
        if sender.returncode or len(list((into / "outputs").iterdir())) != FILES:
            raise SystemExit("the plain tar did not bring every file")

    contestants = {
        "`gpuctl pull RUN DEST`, everything": lambda: run(
            [tool.gpuctl, "pull", RUN, str(new_folder())], cloud.environment
        ),
        "`gpuctl pull RUN` again, nothing changed": lambda: run([tool.gpuctl, "pull", RUN], cloud.environment),
    }
    if shutil.which("ssh"):
        contestants["`ssh tar -c` into `tar -x`"] = plain
    took = medians(rounds, contestants)
    rival = took.get("`ssh tar -c` into `tar -x`")
    lines = ["| whole process | median | ratio |", "| --- | --- | --- |"]
    lines += [f"| {name} | {milliseconds(s)} | {f'{s / rival:.1f}×' if rival else ''} |" for name, s in took.items()]
    lines += [
        "",
        f"{FILES:,} files of 2 kB, {rounds} rounds, interleaved. `pull` asks AWS where the host is, checks each file's "
        "hash and renames it into place; the plain tar does none of that.",
    ]
    run([tool.gpuctl, "down", RUN, "-y", "--discard"], cloud.environment)
    return Part("A thousand small files", lines)
