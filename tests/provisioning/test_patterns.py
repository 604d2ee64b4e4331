"""Patterns mean what they mean to git: pathspec, which is tried against git itself, is the judge.

But for `a/**/`: to git that is what lies in the folders below `a`, to pathspec 1.1.1 each file of `a` too.
"""

from __future__ import annotations

import pathspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from provisioning.patterns import Patterns

SEGMENTS = st.sampled_from(["a", "b", "ab", "*", "a*", "*.pt", "?", "**", "[ab]", "[!a]", "[a-c]x", "x"])
NAMES = st.sampled_from(["a", "b", "ab", "x.pt", "ax", "x", "a.pt", ".pt", "b\n", "[ab]"])
PATTERNS = st.builds(
    lambda parts, tied, folder: tied + "/".join(parts) + folder,
    st.lists(SEGMENTS, min_size=1, max_size=4),
    st.sampled_from(["", "/"]),
    st.sampled_from(["", "/"]),
)


@given(PATTERNS, st.lists(NAMES, min_size=1, max_size=4).map("/".join))
def test_a_pattern_means_what_git_takes_it_for(pattern: str, path: str) -> None:
    """For every path and pattern the answer is pathspec's; a bracket may also be meant as it stands."""
    assume(not pattern.endswith("**/"))
    ours = Patterns([pattern]).match(path)
    theirs = pathspec.GitIgnoreSpec.from_lines([pattern]).match_file(path.replace("\n", "_"))
    assert ours == theirs or (ours and "[ab]" in path and "[ab]" in pattern)


@pytest.mark.parametrize(
    ("pattern", "means", "does_not"),
    [
        ("outputs", ["outputs", "outputs/a/b", "x/outputs/y"], ["outputs2", "my-outputs/x"]),
        ("./outputs", ["outputs/a"], ["x/outputs/y"]),
        ("*.pt", ["m.pt", "a/b/m.pt", "two\nlines.pt"], ["m.pt2", "m.pth"]),
        ("checkpoint-*/", ["checkpoint-5/model.bin", "a/checkpoint-x/y/z"], ["checkpoint-5"]),
        ("runs/**/best.pt", ["runs/best.pt", "runs/a/b/best.pt"], ["x/runs/best.pt"]),
        ("logs/**/", ["logs/a/b", "logs/a/b/c"], ["logs", "logs/x"]),
        ("logs/**", ["logs/x", "logs/a/b"], ["logs"]),
        ("v[12]", ["v1/x", "v2", "v[12]/x"], ["v3"]),
        ("[", ["[", "a/["], ["a"]),
    ],
)
def test_patterns_that_people_write(pattern: str, means: list[str], does_not: list[str]) -> None:
    """What each takes in, and what not."""
    patterns = Patterns([pattern])
    assert [path for path in means if not patterns.match(path)] == []
    assert [path for path in does_not if patterns.match(path)] == []


def test_what_matches_nothing_is_known() -> None:
    """Every pattern that has not matched anything is told, though another took the same file."""
    patterns = Patterns(["*.pt", "m.*", "none"])
    assert patterns.match("m.pt") and not patterns.match("x")
    assert patterns.unmatched == {2}
    assert not Patterns([]).match("x")


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_pattern(pattern: str, path: str) -> None:
    """No text makes it fail."""
    Patterns([pattern]).match(path)
