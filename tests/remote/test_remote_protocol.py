"""What a host's bytes become: events, or a refusal; never an exception of another kind, never what a terminal obeys."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuctl.core.errors import HostError
from gpuctl.core.outputs import (
    AtHome,
    Pulled,
    RemoteFile,
    Sent,
    collisions,
    is_unchanged,
    is_whole,
    parse_file,
    parse_sent,
    parse_skipped,
    printable,
    refusal,
)
from gpuctl.core.shell import Home, command
from gpuctl.remote.protocol import LONGEST_LINE, EventReader, encode_request, parse_event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
FIELDS = st.sampled_from(["path", "size", "mtime_ns", "inode", "complete", "why", "sha256", "whole"])


@UNHURRIED
@given(st.binary(max_size=2000))
def test_any_bytes_are_an_event_or_none(line: bytes) -> None:
    """A line of any bytes is an event with a name, or none."""
    event = parse_event(line)
    assert event is None or isinstance(event["event"], str)


@UNHURRIED
@given(st.lists(st.dictionaries(st.text(max_size=9), JSON, max_size=3), max_size=6), st.data())
def test_events_come_out_however_the_bytes_are_cut(fields: list[dict[str, object]], data: st.DataObject) -> None:
    """Events are the same whatever pieces their bytes arrive in."""
    wanted = [{**some, "event": "x"} for some in fields]
    stream = b"".join(json.dumps(some, allow_nan=True).encode() + b"\n" for some in wanted)
    reader, events = EventReader("run"), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        events += reader.feed(stream[:cut])
        stream = stream[cut:]
    finite = [some for some in wanted if parse_event(json.dumps(some).encode()) is not None]
    assert events == finite


def test_a_line_is_bounded() -> None:
    """A line longer than any event is refused while it comes."""
    reader = EventReader("run")
    with pytest.raises(HostError, match="a line of more than"):
        for _ in range(LONGEST_LINE // 1000 + 2):
            reader.feed(b"x" * 1000)


def test_a_request_is_one_ascii_line() -> None:
    """Whatever a request holds, it is one line of ASCII that reads back as itself."""
    request = {"paths": ["a\nb", "\udcff", "é", "$(x)"]}
    line = encode_request(request)
    assert line.isascii() and line.count(b"\n") == 1 and line.endswith(b"\n")
    assert json.loads(line) == {"schema": 1, **request}


@UNHURRIED
@given(st.dictionaries(FIELDS, JSON))
def test_any_event_is_a_value_or_none(event: dict[str, object]) -> None:
    """A manifest's and a send's events of any shape are read without an exception."""
    file, sent = parse_file(event), parse_sent(event)
    assert file is None or (file.size >= 0 and 0 <= file.mtime_ns < 2**63)
    assert sent is None or sent.size >= 0
    skipped = parse_skipped(event)
    assert skipped is None or "\x1b" not in skipped.why


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/.", "a/", "a\0b", "x" * 5000, "\ud800"),
        *(".gpuctl-part/1", ".GPUCTL-PART"),
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(path: str) -> None:
    """A name that is no plain path below a folder is refused, with a reason that is safe to show."""
    why = refusal(path)
    assert why is not None and why.isprintable()


@pytest.mark.parametrize("path", ["a", "-rf", "$(reboot)", "a\nb", "\udcff\udcfe", "..a/b..", "'\"", " ", "a/b/c"])
def test_odd_names_are_names(path: str) -> None:
    """What is only odd is kept."""
    assert refusal(path) is None


FILE = RemoteFile("a", size=3, mtime_ns=5_000_000_001, inode=7, complete=True)
HOME = AtHome(size=3, mtime_ns=1)


@pytest.mark.parametrize(
    ("known", "home", "unchanged"),
    [
        (Pulled(3, 5_000_000_001, 7, "x"), HOME, True),
        (Pulled(3, 5_000_000_001, 8, "x"), HOME, False),  # renamed into place with the same size and mtime
        (Pulled(3, 4, 7, "x"), HOME, False),
        (Pulled(3, 5_000_000_001, 7, "x"), None, False),  # deleted at home
        (Pulled(3, 5_000_000_001, 7, "x"), AtHome(2, 1), False),
        (None, HOME, False),
        (None, AtHome(3, 5_000_000_001), True),  # a pull that was cut set the mtime
        (Pulled(3, 4, 7, "x"), AtHome(3, 5_000_000_001), True),
        (Pulled(3, 5_000_000_001, 8, "x"), AtHome(3, 5_000_000_001), False),
    ],
)
def test_what_is_home_already(known: Pulled | None, home: AtHome | None, unchanged: bool) -> None:
    """A file need not come where what is known of it, and what lies at home, are this very file."""
    assert is_unchanged(FILE, known, home) is unchanged


@pytest.mark.parametrize(
    ("sent", "size", "mtime_s", "whole"),
    [
        (Sent("a", 3, "h", True), 3, 5.000000001, True),
        (Sent("a", 3, "h", False), 3, 5.000000001, False),
        (Sent("a", 3, "other", True), 3, 5.000000001, False),
        (Sent("a", 4, "h", True), 3, 5.000000001, False),
        (Sent("a", 4, "h", True), 4, 5.000000001, False),
        (Sent("a", 3, "h", True), 3, 6.0, False),  # rewritten since the manifest
        (Sent("b", 3, "h", True), 3, 5.000000001, False),
        (None, 3, 5.0, False),
    ],
)
def test_what_counts_as_whole(sent: Sent | None, size: int, mtime_s: float, whole: bool) -> None:
    """A file stands at home only where what came is what the manifest named, and the host says it stayed so."""
    assert is_whole(FILE, sent, size=size, sha256="h", mtime_s=mtime_s) is whole


def test_a_growing_log_is_whole_as_far_as_it_came() -> None:
    """The log is always being written: what came of it is right where its checksum is."""
    log = RemoteFile("gpuctl/log", size=3, mtime_ns=0, inode=1, complete=True)
    assert is_whole(log, Sent("gpuctl/log", 9, "h", False), size=9, sha256="h", mtime_s=99.0)
    assert not is_whole(log, Sent("gpuctl/log", 9, "h", False), size=9, sha256="x", mtime_s=99.0)


def test_names_that_a_disk_takes_for_one() -> None:
    """On a disk that folds case and accents, the later of two such names is found, with the one before it."""
    assert collisions(["A.pt", "b", "a.pt", "caf\u00e9", "cafe\u0301", "B"]) == {
        "a.pt": "A.pt",
        "cafe\u0301": "caf\u00e9",
        "B": "b",
    }


@UNHURRIED
@given(st.text(st.characters(codec=None), max_size=2000))
def test_text_from_a_host_is_one_harmless_line(text: str) -> None:
    """Shown text holds nothing that a terminal obeys, no line end, and stays short."""
    shown = printable(text, limit=80)
    assert len(shown) <= 80
    assert not any((ord(char) < 32 and char != "\t") or 0x7F <= ord(char) < 0xA0 for char in shown)
    shown.encode()


def test_shell_words_are_words() -> None:
    """Every word reaches a program as itself; only the home folder's tilde is left for the shell."""
    assert command("a", "b c", "$(x)", "", Home("x y/z")) == "a 'b c' '$(x)' '' ~/'x y/z'"
    with pytest.raises(ValueError, match="NUL"):
        command("a\0b")
