"""The shape of the code, as far as import-linter does not hold it."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path

import grimp
import pytest
from doc_pages import CHECKOUT

FOLDERS = sorted({path.parent for root in ("gpuctl", "provisioning") for path in (CHECKOUT / root).rglob("*.py")})


def test_no_module_imports_itself_by_a_detour() -> None:
    """No circle, imports within functions included: what is imported can be understood first."""
    graph = grimp.build_graph("gpuctl", exclude_type_checking_imports=True)
    circles = []
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if graph.find_shortest_chain(imported, module):
                circles.append(f"{module} -> {imported}")
    assert circles == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(CHECKOUT)))
def test_modules_of_one_folder_are_told_apart_at_a_glance(folder: Path) -> None:
    """No two names that differ by a letter or an ending: `fleet` and `fleets`, `server` and `serving`."""
    names = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    alike = [(a, b) for a, b in combinations(sorted(names), 2) if SequenceMatcher(None, a, b).ratio() > 0.85]
    assert alike == []


@pytest.mark.parametrize(
    "pattern",
    [r"\b(instances|living|hosts)\[0\]", r"\.get\(\"state\"\)", r"def (to_json|from_json)\b"],
    ids=["one host among several", "a host's word as a dictionary", "JSON by hand"],
)
def test_what_was_done_away_with_stays_away(pattern: str) -> None:
    """Above the border where a host's words are parsed; what an embedded host imports is kept small instead."""
    border = {"remote", "embedded_cloud", "host_state.py"}
    found = [
        f"{path.relative_to(CHECKOUT)}:{number}"
        for path in sorted((CHECKOUT / "gpuctl").rglob("*.py"))
        if not border.intersection(path.parts)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert found == []
