"""The local copy of a file that grows on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuctl.state.copies import LocalCopy


def test_only_what_continues_the_copy_is_kept(tmp_path: Path) -> None:
    """Neither a hole nor a byte twice, whatever pieces come."""
    copy = LocalCopy(tmp_path / "log")
    for offset, data in ((0, b"abc"), (5, b"gap"), (1, b"bcd"), (0, b"ab"), (4, b"e")):
        copy.add(offset, data)
    assert b"".join(copy.pieces()) == b"abcde"


def test_a_copy_that_was_another_file_and_longer_ends_as_the_hosts_does(tmp_path: Path) -> None:
    """What is put right from its start is cut where the host's file ends."""
    copy = LocalCopy(tmp_path / "log")
    copy.add(0, b"an older and longer log\n")
    copy.mend(0, b"new log\n")
    copy.cut(8)
    copy.cut(100)
    assert b"".join(copy.pieces()) == b"new log\n" and copy.size() == 8


@pytest.mark.parametrize(
    ("data", "lines", "last"),
    [
        (b"one\ntwo\nthree\nhalf", 2, b"two\nthree\nhalf"),
        (b"one\ntwo\n", 0, b""),
        (b"one\ntwo\n", 9, b"one\ntwo\n"),
        (b"", 3, b""),
        (b"x\n" * 3_000_000, 1_500_000, b"x\n" * 1_500_000),
        (b"bar\r" * 2_000_000, 10, b"bar\r" * ((1 << 18) - 1)),
    ],
)
def test_the_last_lines_are_found_from_the_end(tmp_path: Path, data: bytes, lines: int, last: bytes) -> None:
    """Of a copy of any size, only its end is looked at; a line that goes on for megabytes is begun where it can be."""
    (tmp_path / "log").write_bytes(data)
    copy = LocalCopy(tmp_path / "log")
    assert data[copy.start_of_last(lines) :] == last
