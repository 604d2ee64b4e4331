"""Pull: outputs home, incrementally and checked; and what of a run is not home, in words."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpuctl.core.answers import NotPulled, PullAnswer, Skipped
from gpuctl.core.errors import NotHome, UsageError
from gpuctl.core.outputs import RUNS_ON, Left, Pulled, RunMark, Wish, amount, described, printable
from gpuctl.core.shell import command
from gpuctl.remote.destination import Destination, read_mark
from gpuctl.remote.host import Host
from gpuctl.remote.pull import Progress, Transfer, pull_outputs
from gpuctl.remote.training import training_state
from gpuctl.state.runs import RunFolder
from gpuctl.workflows.boot import open_host_started
from gpuctl.workflows.each_host import Outcome, each_host, raise_failed
from gpuctl.workflows.follow import note_state
from gpuctl.workflows.hosts import RunHandle, hosts_known
from gpuctl.workflows.reporter import Reporter

LEAVES_SOMETHING_AFTER_S = 600
"""A command that ran for longer than this, ended well and wrote no file has written one where gpuctl does not look."""

_MOST_NAMED = 5
_MOST_PLACES = 100
_PROCESS = re.compile(r"process (\d{1,10})", re.ASCII)
AS_THE_JOB_SAYS = Wish()


@dataclass(frozen=True)
class PullResult:
    """What a pull brought home, and where it is. `ran_s`: for how long the command ran, once it has ended."""

    destination: Path
    result: Transfer
    ran_s: float | None = None

    @property
    def answer(self) -> PullAnswer:
        """As `pull --json` prints it."""
        result = self.result
        return PullAnswer(
            destination=str(self.destination),
            files=result.files,
            unchanged=result.unchanged,
            bytes=result.bytes_moved,
            skipped=tuple(Skipped(name, why) for name, why in result.skipped),
            left=tuple(NotPulled(one.path, one.why, one.files, one.bytes) for one in result.left),
            missing=result.missing,
            incomplete=result.incomplete,
            complete=result.complete,
        )


@dataclass(frozen=True)
class RunPull:
    """What a pull of all of a run's hosts brought home, below `destination`, and which of them it got nothing of."""

    run: str
    destination: Path
    hosts: tuple[Outcome[PullResult], ...]

    @property
    def results(self) -> list[PullResult]:
        """Of the hosts that answered."""
        return [one.result for one in self.hosts if one.result is not None]

    def raise_failed(self) -> None:
        """Raises HostError, which names them, where there are hosts that failed."""
        raise_failed("not everything was downloaded from", self.run, self.hosts)

    @property
    def answer(self) -> PullAnswer:
        """As `pull --json` prints it."""
        first, *others = (self._answer_of(one) for one in self.hosts)
        return replace(first, others=tuple(others))

    def _answer_of(self, one: Outcome[PullResult]) -> PullAnswer:
        if one.result is not None:
            return replace(one.result.answer, host=one.number)
        home = str(_home_of(self.destination, one.number))
        return PullAnswer(home, (), 0, 0, (), (), (), (), complete=False, host=one.number, error=str(one.error))


@dataclass
class _Memory:
    """`pulled.json`: what tells the run from others of its name, and by folder what its pulls brought there."""

    id: str
    homes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def kept(cls, folder: RunFolder) -> Iterator[_Memory]:
        """As it is now, and written when the block ends; another pull of the run may remember something meanwhile."""
        with folder.pulled_lock():
            stored = folder.pulled()
            homes = stored.get("homes")
            if not isinstance(homes, dict):  # an earlier version's, of one folder
                homes = {str(stored["destination"]): {"files": stored.get("files")}} if "destination" in stored else {}
            memory = cls(str(stored.get("id") or secrets.token_hex(8)), homes)
            yield memory
            folder.write_pulled({"id": memory.id, "homes": memory.homes})

    def claimed(self, home: str, host: str | None) -> set[str]:
        """The names that this run's pulls have brought there, or begun to; what is damaged is not known."""
        names = self._home(home, host).get("claimed")
        return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()

    def files(self, home: str, host: str | None) -> dict[str, Pulled]:
        """What is known of each file that lies there."""
        try:
            return {name: Pulled(**values) for name, values in self._home(home, host).get("files", {}).items()}
        except (AttributeError, TypeError):
            return {}

    def note(self, home: str, claimed: Collection[str], files: Mapping[str, Pulled], host: str | None) -> None:
        """Add names, and what is known of files now, all of them of that instance."""
        names = sorted(self.claimed(home, host).union(claimed))
        known = {name: asdict(pulled) for name, pulled in files.items()}
        self.homes[home] = {"files": known, "claimed": names, "host": host or self._home(home, None).get("host")}

    def _home(self, home: str, host: str | None) -> Mapping[str, Any]:
        """What is known of a folder; of another instance's nothing: what lies there is not this one's to replace."""
        found = self.homes.get(home)
        if not isinstance(found, dict):
            return {}
        before = found.get("host")
        return {} if host is not None and before is not None and before != host else found


def destination_of(run: RunHandle, chosen: Path | None) -> Path:
    """Where a run's outputs go: as chosen, or where they went last, else `./RUN/` or the first such that is free."""
    last = run.folder.progress().destination
    if chosen is None and last is None:
        return free_place(Path(run.name), run.name, run.folder)
    return (chosen or Path(str(last))).absolute()


def free_place(wanted: Path, run: str, folder: RunFolder | None = None) -> Path:
    """That folder, or where it holds another run's outputs one in it, or beside it, that is called as the run is."""
    own = folder.pulled().get("id") if folder is not None else None
    named = wanted if wanted.name == run else wanted / run
    others = [named.with_name(f"{named.name}-{number}") for number in range(2, _MOST_PLACES)]
    for place in (wanted, named, *others):
        mark = read_mark(place)
        if mark is None or mark.id == own:
            return place.absolute()
    raise UsageError(f"{named} holds outputs of other runs", "name another folder")


def pull(run: RunHandle, destination: Path | None, *, wish: Wish = AS_THE_JOB_SAYS, reporter: Reporter) -> RunPull:
    """Bring home what is not home of each host, at once; a host that is switched off is started for it.

    Raises HostError kinds where that failed with every host; what did come home then is whole.
    """
    where, hosts = destination_of(run, destination), hosts_known(run)
    claim(run, where, hosts)

    def one(host_run: RunHandle) -> PullResult:
        with open_host_started(host_run) as host:
            return pull_from(host_run, host, where, wish=wish, reporter=reporter)

    pulled = RunPull(run.name, where, tuple(each_host(hosts, one)))
    if len(pulled.results) == len(hosts):
        note_home(run, where, pulled.results)
    else:
        run.folder.note(destination=str(where))
    return pulled


def claim(run: RunHandle, destination: Path, hosts: Sequence[RunHandle]) -> None:
    """Make the folder this run's before anything of another host than the first comes into one below it.

    For the first host the pull itself does that. Raises UsageError where the folder is another run's.
    """
    if all(host.number == 0 for host in hosts):
        return
    with _Memory.kept(run.folder) as memory:
        mark = RunMark(run.name, memory.id)
    with Destination(destination, mark):
        pass


def note_home(run: RunHandle, destination: Path, pulled: Sequence[PullResult]) -> None:
    """Remember where a run's outputs are, and whether all that it wrote is there."""
    home = all(one.result.over and not_home(run.name, one) is None for one in pulled)
    run.folder.note(destination=str(destination), home=home)


def pull_from(
    run: RunHandle, host: Host, destination: Path, *, wish: Wish = AS_THE_JOB_SAYS, reporter: Reporter
) -> PullResult:
    """Bring one host's outputs home over a connection that is there; those of another than the first in a folder of
    its own there. What came home is all there will be only once training has ended."""
    destination = _home_of(destination, run.number)
    reporter.phase("pull", f"into {destination}")
    state = training_state(host, gpus=False)
    note_state(run, state)
    home = str(destination)
    with _Memory.kept(run.folder) as memory:
        host_id = run.instance_id
        known, claimed = memory.files(home, host_id), memory.claimed(home, host_id)

    def remember(names: Collection[str], files: Mapping[str, Pulled] = known) -> None:
        with _Memory.kept(run.folder) as memory:
            memory.note(home, names, files, host_id)
        if run.number == 0:
            run.folder.note(destination=home)

    def brought(result: Transfer) -> PullResult:
        return PullResult(destination, result, state.ran_s)

    result = pull_outputs(
        host,
        destination,
        known,
        mark=RunMark(run.name, memory.id),
        claimed=frozenset(claimed),
        reserved=frozenset(_host_folder(host.number) for host in hosts_known(run) if host.number) - {destination.name},
        wish=wish,
        on_claim=remember,
        is_home=lambda result: not_home(run.name, brought(result)) is None,
        on_progress=lambda progress: reporter.progress(_how_far(progress, destination)),
    )
    remember((), result.known)
    return brought(result)


def _host_folder(number: int) -> str:
    return f"host-{number}"


def _home_of(destination: Path, number: int) -> Path:
    return destination / _host_folder(number) if number else destination


def _how_far(progress: Progress, destination: Path) -> str:
    done, files = f"{progress.files} of {progress.of_files}", "file" if progress.of_files == 1 else "files"
    return f"{done} {files}, {amount(progress.bytes)} of {amount(progress.of_bytes)}, into {destination}"


def not_home(run: str, brought: PullResult) -> NotHome | None:
    """What of a run that has ended is on its host alone, and what to type; None where all is home."""
    result = brought.result
    if result.complete and not _left_nothing(brought):
        return None
    lose = f"or discard it: gpuctl down {run} --discard"
    if result.complete:
        return NotHome(f"only the log of {run} was downloaded: gpuctl found no other file that its command wrote", lose)
    what = [described(one) for one in result.left]
    what += [f"{printable(name)} (still being written)" for name in result.incomplete]
    what += [f"{printable(name)} in [outputs] paths matches no file" for name in result.missing]
    more = f" and {len(what) - _MOST_NAMED} more" if len(what) > _MOST_NAMED else ""
    told = ", ".join(what[:_MOST_NAMED]) + more
    steps = list(dict.fromkeys(filter(None, (_remedy(run, brought.destination, one) for one in result.left))))
    return NotHome(f"not all of {run} was downloaded to {brought.destination}: {told}", "; ".join([*steps[:3], lose]))


def _left_nothing(brought: PullResult) -> bool:
    result = brought.result
    return result.only_log and result.training == "succeeded" and (brought.ran_s or 0) > LEAVES_SOMETHING_AFTER_S


def _remedy(run: str, destination: Path, left: Left) -> str | None:
    """The words to type that bring it home."""
    if left.kind == "size":
        return f"download it: gpuctl pull {run} --max-size none"
    if left.kind == "unnamed":
        return f"download it: gpuctl pull {run} --everything"
    if left.kind in ("name", "reserved"):
        return f"rename it in gpuctl/work (gpuctl ssh {run}), then pull"
    if left.kind == "home":
        return f"download it to another folder: gpuctl pull {run} {destination / run}"
    process = _PROCESS.fullmatch(left.path)
    if left.kind == RUNS_ON and process is not None:
        return f"wait until it has ended, or end it (gpuctl ssh {run} -- kill {process[1]}), then try again"
    if left.kind in ("unreadable", "deep"):
        return f"look at it: gpuctl ssh {run}"
    if left.kind == "outside" and left.path.isprintable() and " -> " not in left.path:
        moved = command("mv", left.path.removeprefix("~/").rstrip("/"), "gpuctl/work/")
        return f"move it: gpuctl ssh {run} -- {moved}, then pull"
    return f"look at it: gpuctl ssh {run}"
