"""The pages for people, and what they show: commands, links, code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(gpuctl [^`]+)`")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_PROMPT = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S* )*(?:\S*/)?(?=gpuctl )")


@dataclass(frozen=True)
class Shown:
    """Something that a page shows, and where."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def name_of(page: Path) -> str:
    """A page as messages and test ids name it."""
    return page.relative_to(CHECKOUT).as_posix()


def fences(page: Path, language: str | None = None) -> list[str]:
    """The page's code blocks; those in one language where it is given."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [f["code"] for f in found if language is None or f["language"] == language]


def commands(page: Path) -> Iterator[Shown]:
    """Every gpuctl command on the page: lines of code blocks that begin so, and inline code that does."""
    for code in fences(page):
        for line in code.replace("\\\n", " ").splitlines():
            command, prompts = _PROMPT.subn("", line.strip())
            if prompts or command.startswith("gpuctl "):
                yield Shown(name_of(page), command)
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in _INLINE.finditer(text):
        yield Shown(name_of(page), " ".join(found[1].split()))


def words(command: str) -> list[str]:
    """The command's words without `gpuctl`, as a shell would cut them: comments off, to the first pipe."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&"):
            break
        found.append(word)
    return found[1:]


def links(page: Path) -> Iterator[Shown]:
    """Where the page's links go."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in _LINK.finditer(re.sub(r"`[^`]*`", "", text)):
        yield Shown(name_of(page), found["target"])


def anchors(page: Path) -> set[str]:
    """The names of the page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
