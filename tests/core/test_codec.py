"""Values as JSON and back."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.codec import Unreadable, dumps, loads, parse


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()
    place: Path | None = None


@dataclass(frozen=True)
class Value:
    number: int
    price: Decimal = Decimal(1)
    ends: datetime = datetime(2026, 11, 25, tzinfo=timezone.utc)
    inner: Inner = Inner()


def test_money_is_a_number_and_a_time_is_utc_to_the_second() -> None:
    """What `--json` prints is this too."""
    text = dumps(Value(1, Decimal("0.283933"), inner=Inner(("a",), Path("/x"))))
    assert json.loads(text) == {
        "number": 1,
        "price": 0.283933,
        "ends": "2026-11-25T00:00:00Z",
        "inner": {"names": ["a"], "place": "/x"},
    }
    assert loads(text, Value) == Value(1, Decimal("0.283933"), inner=Inner(("a",), Path("/x")))


@given(st.lists(st.text()), st.decimals(0, 100, places=6), st.integers(-(2**53), 2**53))
def test_what_is_written_is_read_as_it_was(names: list[str], price: Decimal, number: int) -> None:
    """Any text, lone surrogates of file names included."""
    value = Value(number, price, inner=Inner((*names, "not utf-8: \udcff")))
    assert loads(dumps(value), Value) == value


def test_what_is_not_known_is_ignored_and_what_is_missing_has_its_default() -> None:
    """So a later version's field, or an earlier one's lack of it, makes nothing unreadable."""
    assert loads('{"number": 1, "new": {"deep": [1]}, "inner": {"newer": null}}', Value) == Value(1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"number": "1"}', r"Expected `int`, got `str` - at `\$.number`"),
        ('{"number": true}', "got `bool`"),
        ("{}", "missing required field `number`"),
        ("[]", "Expected `object`, got `array`"),
        ('{"number": 1, "ends": "tomorrow"}', r"at `\$.ends`"),
        ('{"number": 1, "price": NaN}', "NaN is not JSON"),
        ('{"number": 1, "price": 1e999}', "too large"),
        ('{"number": 1, "inner": {"names": [1]}}', r"at `\$.inner.names\[0\]`"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_wrong_is_one_error_that_says_where(text: str, why: str) -> None:
    """Whoever reads a file or an answer catches one kind of error."""
    with pytest.raises(Unreadable, match=why):
        loads(text, Value)


@given(st.binary())
def test_any_bytes_are_a_value_or_unreadable(data: bytes) -> None:
    """A damaged file is never a traceback."""
    try:
        parse(data)
    except Unreadable:
        pass


def test_threads_read_a_type_for_the_first_time_at_once() -> None:
    """`down --all` does. Without a lock msgspec 0.22.0 ends the process here (SIGSEGV)."""
    program = """
        import sys, threading
        from concurrent.futures import ThreadPoolExecutor
        from dataclasses import make_dataclass
        from gpuctl.core.codec import loads

        sys.setswitchinterval(1e-6)
        at_once = threading.Barrier(4)

        def read(kind):
            at_once.wait()
            return loads('{"one": {"name": "a"}, "more": [{"name": "b"}]}', kind)

        with ThreadPoolExecutor(4) as threads:
            for _ in range(300):
                inner = make_dataclass("Inner", [("name", "str | None", None), ("numbers", "tuple[int, ...]", ())])
                kind = make_dataclass("Outer", [("one", inner), ("more", tuple[inner, ...], ())])
                assert [value.more[0].name for value in threads.map(read, [kind] * 4)] == ["b"] * 4
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=100)
