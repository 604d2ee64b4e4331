"""The payload's reading of `requires-python`, which has the standard library alone, beside the library of PEP 440."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from provisioning.protocol import PayloadError
from provisioning.python_version import satisfies

numbers = st.tuples(st.just(3), st.integers(8, 15), st.integers(0, 3))
releases = numbers.map(lambda n: ".".join(map(str, n)))
shorter = st.one_of(releases, releases.map(lambda text: text.rpartition(".")[0]))
clauses = st.one_of(
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "~="]), st.sampled_from(["", " "]), shorter),
    st.tuples(st.sampled_from(["==", "!="]), st.just(""), shorter.map(lambda text: f"{text}.*")),
).map("".join)


@given(st.lists(clauses, max_size=3).map(",".join), numbers)
def test_it_reads_specifiers_as_everybody_does(requires: str, version: tuple[int, int, int]) -> None:
    """For every release of Python and every set of plain clauses, the answer is the library's."""
    assert satisfies(requires, version) == SpecifierSet(requires).contains(".".join(map(str, version)))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else comes of it than an answer or an error in words."""
    try:
        assert satisfies(text, (3, 10, 12)) in (True, False)
    except PayloadError as error:
        assert "is not a version specifier" in error.message


def test_what_no_release_is_called_is_refused() -> None:
    """`^3.10` is Poetry's, not pip's."""
    with pytest.raises(PayloadError, match="not a version specifier"):
        satisfies("^3.10", (3, 10, 12))
