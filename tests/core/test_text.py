"""Nothing hostile in a host's text reaches a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.text import safe, shorten

_ESCAPES = st.sampled_from(
    ["\x1b", "\x1b[", "\x1b]", "\x9b", "\x9d", "\x07", "\x1b\\", "[2J", "0;title", "\u202e", "\r", "\n"]
)


@given(st.one_of(st.text(), st.lists(st.one_of(_ESCAPES, st.text(max_size=3))).map("".join)))
def test_no_character_that_a_terminal_obeys_is_left(text: str) -> None:
    """Whatever the text, only characters to look at come out, and a terminal's encoding can write them."""
    shown = safe(text)
    for character in shown:
        assert character in "\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    shown.encode("utf-8")


@given(st.binary())
def test_any_bytes_can_be_shown(data: bytes) -> None:
    """Bytes that are no text are shown too."""
    assert safe(data) == safe(data.decode("utf-8", "replace"))


@given(st.text(alphabet=st.characters(whitelist_categories=("L", "N", "P", "S", "M"))))
def test_printable_text_stays_as_it_is(text: str) -> None:
    """Letters, marks, numbers and symbols of every script are not touched."""
    assert safe(text) == text


@given(st.text())
def test_safe_text_is_safe_already(text: str) -> None:
    """Doing it twice changes nothing."""
    assert safe(safe(text)) == safe(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\x1b[2Jb\x1b[1;1Hc", "abc"),
        ("\x1b]0;owned\x07x", "x"),
        ("\x1b]52;c;cm0gLXJm\x1b\\x", "x"),
        ("\x9b31mred", "red"),
        ("\x1bP1$r\x1b\\x\x1bcy", "xy"),
        ("\x1b]never ends", "␛]never ends"),
        ("\x1b", "␛"),
        ("\x1b\x1b[0m[2J", "␛[2J"),
        ("tab\there", "tab\there"),
        ("two\nlines", "two␊lines"),
        ("bell\x07 back\x08 del\x7f", "bell␇ back␈ del␡"),
        ("gpj.\u202eexe", "gpj.<U+202E>exe"),
        ("zero\u200bwidth", "zero<U+200B>width"),
        ("name\udcff", "name\\xff"),
        ("\ud800", "<U+D800>"),
        ("family 👨\u200d👩\u200d👧", "family 👨\u200d👩\u200d👧"),
        ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ],
)
def test_escapes_go_and_oddities_show(text: str, shown: str) -> None:
    """Whole escape sequences are removed; what is left of odd characters is visible."""
    assert safe(text) == shown


def test_a_hostile_line_takes_no_time() -> None:
    """A megabyte of openings of sequences that never end is read in a moment (it would be hours if it backtracked)."""
    for opening in ("\x1b]", "\x9d", "\x1b[", "\x9b0;"):
        assert len(safe(opening * 500_000)) > 0


def test_shortening_shows_that_it_cut() -> None:
    """A cut text ends in an ellipsis and keeps to the width."""
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abc", 3) == "abc"
