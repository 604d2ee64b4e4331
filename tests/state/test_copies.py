"""The local copy of a file that grows on a host."""

from __future__ import annotations

from pathlib import Path

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
