"""Programs whose output a person watches from the laptop while they run: apt, pip."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Callable, Optional

_LONGEST = 2000
_CAUSE = "The conflict is caused by:"
_MOST_NAMED = 4


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit code (127: there is none of that name), and its last words."""

    code: int
    last_lines: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The line that says why: the conflict that pip found, the last that speaks of an error, the last."""
        if cause := _conflict(self.last_lines):
            return cause
        errors = [line for line in self.last_lines if line.lower().startswith(("error", "e:"))]
        lines = errors or list(self.last_lines)
        return lines[-1] if lines else f"exit code {self.code}"


def _conflict(lines: tuple[str, ...]) -> str:
    """Which requirements exclude each other, as pip says it: "ResolutionImpossible", its last word, names none."""
    begins = [place for place, line in enumerate(lines) if line.startswith(_CAUSE)]
    if not begins:
        return ""
    named = [line.strip() for line in takewhile(lambda line: line.startswith(" "), lines[begins[-1] + 1 :])]
    return f"the conflict is caused by {', and '.join(named[:_MOST_NAMED])}" if named else ""


def run_shown(
    command: list[str],
    tell: Callable[[str], None],
    *,
    environment: Optional[Mapping[str, str]] = None,
    cwd: Optional[Path] = None,
) -> Done:
    """Run a program and `tell` each line of its output as it comes."""
    last: deque[str] = deque(maxlen=30)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment) if environment is not None else None,
            cwd=cwd,
        )
    except OSError as error:
        return Done(127, (f"{command[0]}: {error.strerror}",))
    assert process.stdout is not None
    try:
        for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip()[:_LONGEST]
            if line:
                last.append(line)
                tell(line)
        return Done(process.wait(), tuple(last))
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()
