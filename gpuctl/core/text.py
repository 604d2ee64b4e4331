"""Text from a host, made harmless: nothing in it reaches a terminal as anything but characters.

A log, a file name or an error message may hold escape sequences that clear the screen, set the window's title, write to
the clipboard or answer as if the user had typed, and direction marks that make one name look like another.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_STRING_LIMIT = 4096
"""An operating system command (OSC) or another string that has not ended after so many characters is not one."""

_STRING = rf"[^\x07\x1b\x80-\x9f]{{0,{_STRING_LIMIT}}}(?:\x07|\x1b\\|\x9c)"
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,256}[ -/]{0,32}[@-~]"  # CSI: colours, cursor, screen
    rf"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]){_STRING}"  # OSC, DCS, SOS, PM, APC: titles, clipboard, graphics
    r"|\x1b[ -/]{1,8}[0-~]"  # character sets and the like
    r"|\x1b[0-OQ-WYZ\\`-~]"  # one character: reset, save the cursor
)
"""Whole escape sequences, as ECMA-48 and xterm's ctlseqs define them. Every repeat is bounded: no line takes long."""

_JOINERS = frozenset("\u200c\u200d")
"""Format characters that scripts and emoji need, and that move nothing."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe(text: str | bytes) -> str:
    """The text on one line: escape sequences removed, every other character that is not one to look at made visible.

    Tabs and printable characters stay as they are. A newline becomes `␊`, an escape that ends nowhere `␛`, a direction
    mark `<U+202E>`, a byte that is not UTF-8 `\\xff` where it came as `os.fsdecode` makes it, else `\ufffd`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if text.isprintable():
        return text
    text = _SEQUENCES.sub("", text)
    return text if text.isprintable() else "".join(map(_visible, text))


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the cut shown as `…`."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """What to say of a name that is none of those that are known."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\t" or character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"<U+{code:04X}>"
