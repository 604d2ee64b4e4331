"""Whatever a stranger's bytes are, each border takes them or refuses them in one line: in little time and memory."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import found_on_disk
import pytest
import said_by_clouds
import said_by_hosts
from fuzzing import Parser, Tried, fuzz

PARSERS = (*said_by_hosts.parsers(), *found_on_disk.parsers(), *said_by_clouds.parsers())
each_parser = pytest.mark.parametrize("parser", PARSERS, ids=[one.name.replace(" ", "-") for one in PARSERS])


@each_parser
def test_no_input_is_unexpected(parser: Parser, tmp_path: Path) -> None:
    """The same inputs every time and everywhere: a faster machine meets no others."""
    assert fuzz(parser, tmp_path, seconds=math.inf, most=60).inputs == 60


@pytest.mark.prove
@each_parser
def test_no_input_is_unexpected_for_long(
    parser: Parser, tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    """Other inputs each time, for as long as `--fuzz-seconds` says."""
    seconds = request.config.getoption("--fuzz-seconds")
    tried: Tried = fuzz(parser, tmp_path, seconds=seconds, first=random.SystemRandom().randrange(10**9))
    record_property("inputs", f"{tried.inputs:,}")
    record_property("refused", f"{tried.refused:,}")
    record_property("memory grew by", f"{tried.grown / 1e6:.0f} MB")
