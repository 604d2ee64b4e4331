"""`make prove` leaves a dated table: what was proved, how long it took, what it measured, at which commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


class Proof:
    """Collects the outcomes of one run. A test adds figures of its own by pytest's `record_property`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One row a test, or for what failed or was skipped before it began."""
        if report.when != "call" and report.outcome == "passed":
            return
        figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        cells = (report.nodeid.removeprefix("tests/"), report.outcome, f"{report.duration:.1f} s", figures or why)
        self.rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")

    def pytest_sessionfinish(self) -> None:
        """Write the table, where there is anything to tell."""
        if not self.rows:
            return
        now = datetime.now(timezone.utc)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{now:%Y-%m-%d-%H%M}.md"
        path.write_text("\n".join([*self._head(now), *self.rows]) + "\n")

    def _head(self, now: datetime) -> Iterator[str]:
        commit, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
        yield f"# Proof of {now:%Y-%m-%d %H:%M} UTC"
        yield ""
        yield f"Commit {commit}{' with changes' if changes else ''}, by `make prove`. {machine()}."
        yield ""
        yield "| test | outcome | took | figures |"
        yield "| --- | --- | --- | --- |"


def git(*words: str) -> str:
    """What git says of this checkout."""
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    """What it ran on."""
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {who}"
    )
