"""Reporters for tests: one that tells nobody, one that keeps what it was told."""

from __future__ import annotations

from gpuctl.workflows.reporter import Reporter


class Silent(Reporter):
    """Tells nobody."""


class Notes(Reporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
