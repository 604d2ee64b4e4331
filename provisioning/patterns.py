"""Patterns of paths, as ignore files have them: https://git-scm.com/docs/gitignore, less its `!` and `#` lines."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Patterns:
    """Several patterns. A pattern that matches a folder matches all that lies in it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._each = [re.compile(expression(pattern), re.DOTALL) for pattern in self.patterns]
        self._any = re.compile("|".join(one.pattern for one in self._each) or r"(?!)", re.DOTALL)
        self.names = frozenset(part for pattern in self.patterns for part in pattern.split("/"))
        self.unmatched = set(range(len(self.patterns)))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def match(self, path: str) -> bool:
        """True where a file of that path, relative to the workspace, is meant. Remembers by which patterns."""
        if self._any.fullmatch(path) is None:
            return False
        self.unmatched -= {index for index in self.unmatched if self._each[index].fullmatch(path)}
        return True


def expression(pattern: str) -> str:
    """The regular expression of the paths of the files that a pattern means, or that lie in a folder that it means.

    Without a `/` before its end, a pattern means a name at any depth; `./` at its start ties it to the workspace.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    tied = len(parts) > 1 or pattern.startswith(("/", "./"))
    made = "" if tied else "(?:.*/)?"
    for part in parts[:-1]:
        made += "(?:.*/)?" if part == "**" else _segment(part) + "/"
    last = parts[-1] if parts else ""
    made += ".+" if last == "**" else _segment(last)
    made += "/.+" if pattern.endswith("/") else "(?:/.*)?"
    # A name may hold a bracket and mean it.
    return f"(?:{made}|{re.escape(pattern.rstrip('/'))}(?:/.*)?)" if "[" in pattern else f"(?:{made})"


def _segment(part: str) -> str:
    made, at = "", 0
    while at < len(part):
        char, at = part[at], at + 1
        end = part.find("]", at + (2 if part[at : at + 1] in ("!", "^") else 1)) if char == "[" else -1
        if char == "*":
            made += "" if made.endswith("[^/]*") else "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif end > 0:
            made += _one_of(part[at:end])
            at = end + 1
        else:
            made += re.escape(char)
    return made


def _one_of(content: str) -> str:
    """A bracket's content as a set that never takes in a slash."""
    negated = content[:1] in ("!", "^")
    content = content[1:] if negated else content
    made, at = "", 0
    while at < len(content):
        first, last = content[at], content[at + 2 : at + 3] if content[at + 1 : at + 2] == "-" else ""
        if last and first <= last:
            made += f"{re.escape(first)}-{re.escape(last)}"
        elif not last:
            made += re.escape(first)
        at += 3 if last else 1
    if not made:
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' if negated else ''}{made}]"
