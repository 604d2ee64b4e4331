"""`make bench`: what gpuctl costs, as ratios within one run.

python -m benchmarks                  # all of it, some minutes
python -m benchmarks --only startup
python -m benchmarks --write          # and keep the page as docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import jobs_smoke, listing, small_files, startup, warm_launch
from benchmarks.bench_tools import Part, embedded_cloud, installed, toy_project

ROOT = Path(__file__).parents[1]
PARTS = ("startup", "ls", "launch", "pull", "jobs")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What gpuctl costs, as ratios within one run."
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone (repeatable)")
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds of what is short (15); a third of it of the rest"
    )
    parser.add_argument("--write", action="store_true", help="keep the page as docs/benchmarks.md")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    parts = list(measured(given.only or PARTS, given.rounds))
    text = page(parts, load=(before, os.getloadavg()[0]))
    print(text, end="")
    if given.write:
        (ROOT / "docs" / "benchmarks.md").write_text(text)


def measured(names: list[str] | tuple[str, ...], rounds: int) -> Iterator[Part]:
    """The parts that were asked for."""
    few = max(3, rounds // 3)
    with tempfile.TemporaryDirectory(prefix="gb") as name, installed(Path(name)) as tool:
        folder = Path(name)
        if "startup" in names:
            yield startup.measure(tool, rounds)
        if "jobs" in names:
            yield jobs_smoke.measure(folder, few)
        if set(names) <= {"startup", "jobs"}:
            return
        with embedded_cloud() as cloud:
            project = toy_project(folder)
            if "ls" in names:
                yield listing.measure(cloud, tool, project, rounds)
            if "launch" in names:
                yield warm_launch.measure(cloud, project, few)
            if "pull" in names:
                yield small_files.measure(cloud, tool, project, folder, few)


def page(parts: list[Part], *, load: tuple[float, float]) -> str:
    """The page, as Markdown."""
    words = [
        "# What gpuctl costs",
        "",
        "Made by `python -m benchmarks --write`. Ratios are within one run; times are this machine's, and longer than "
        "they would be where the load is above the number of cores.",
    ]
    words += ["", f"{datetime.now(timezone.utc):%Y-%m-%d}, {commit()}, {os.cpu_count()} cores, {platform.machine()}, "]
    words[-1] += f"Python {platform.python_version()}; load {load[0]:.1f} before, {load[1]:.1f} after."
    for part in parts:
        words += ["", f"## {part.title}", "", *part.lines]
    return "\n".join(words) + "\n"


def commit() -> str:
    """The commit that was measured, and whether files of it were changed since."""

    def git(*what: str) -> str:
        return subprocess.run(["git", *what], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "gpuctl", "provisioning")
    return f"commit {git('rev-parse', '--short', 'HEAD')}{' with changes' if changed else ''}"


if __name__ == "__main__":
    main()
