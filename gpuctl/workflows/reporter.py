"""How a workflow tells what it is doing; `gpuctl.ui.progress` shows it, a test collects it."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """What is going on, for a person."""

    def phase(self, name: str, detail: str = "") -> None:
        """A phase begins; the one before it is done."""

    def note(self, text: str) -> None:
        """Something worth a line within the phase."""

    def progress(self, text: str) -> None:
        """How far the phase is: shown in the place of what was shown before, or not at all."""
