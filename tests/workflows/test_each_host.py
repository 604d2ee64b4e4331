"""Several hosts of a run: one that fails hides nothing of what the others gave, and is named by its number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from gpuctl.core.errors import HostError, HostGone, HostUnreachable
from gpuctl.remote.pull import Transfer
from gpuctl.workflows.each_host import Outcome, each_host, raise_failed
from gpuctl.workflows.hosts import RunHandle
from gpuctl.workflows.pull import PullResult, RunPull


@dataclass(frozen=True)
class Numbered:
    """As much of a host as its number."""

    number: int


HOSTS = [cast(RunHandle, Numbered(number)) for number in range(3)]


def works(*deaf: int) -> list[Outcome[str]]:
    """Work that fails on these hosts."""

    def work(host: RunHandle) -> str:
        if host.number in deaf:
            raise HostUnreachable(f"{host.number} does not answer", f"step {host.number}")
        return f"done on {host.number}"

    return each_host(HOSTS, work)


def test_what_the_others_gave_is_there() -> None:
    """Whichever fails, the first too; the error names each by number, with the first one's next step."""
    raise_failed("not done:", "toy", works())
    outcomes = works(0, 2)
    assert [one.result for one in outcomes] == [None, "done on 1", None]
    with pytest.raises(HostError) as raised:
        raise_failed("not done:", "toy", outcomes)
    assert raised.value.exit_code == 1
    assert str(raised.value) == (
        "not done: host 0 of toy: 0 does not answer, and host 2 of toy: 2 does not answer; step 0"
    )


def test_where_all_fail_the_first_error_is_raised() -> None:
    """As it is of a run with one host."""
    with pytest.raises(HostUnreachable, match="0 does not answer"):
        works(0, 1, 2)


def test_the_answer_of_a_pull_is_the_first_hosts_though_that_is_gone(tmp_path: Path) -> None:
    """Its fields never mean another host's; what came of the others is under theirs."""
    transfer = Transfer(("model.pt",), 0, (), (), (), (), 5, {}, "succeeded", over=True, only_log=False)
    outcomes = (
        Outcome[PullResult](0, error=HostGone("no host any more")),
        Outcome(1, PullResult(tmp_path / "host-1", transfer)),
    )
    pulled = RunPull("toy", tmp_path, outcomes)
    answer = pulled.answer
    assert (answer.host, answer.destination, answer.files, answer.complete) == (0, str(tmp_path), (), False)
    assert answer.error == "no host any more"
    (other,) = answer.others
    assert (other.host, other.destination, other.files, other.error) == (
        1,
        str(tmp_path / "host-1"),
        ("model.pt",),
        None,
    )
    with pytest.raises(HostError, match="host 0 of toy: no host any more"):
        pulled.raise_failed()
