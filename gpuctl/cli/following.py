"""What `launch` and `tail` share: the log on the screen, Ctrl-C that only detaches, what comes at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import now
from gpuctl.core.endings import ending, failure
from gpuctl.core.errors import (
    GpuctlError,
    HostError,
    HostKeyMismatch,
    HostUnreachable,
    Interrupted,
    LeftBehind,
    NotHome,
    TrainingFailed,
)
from gpuctl.core.host_state import HostState
from gpuctl.core.losses.reader import LogLine
from gpuctl.core.outputs import Wish
from gpuctl.core.text import safe
from gpuctl.state.paths import paths
from gpuctl.state.runs import run_folder

if TYPE_CHECKING:
    from gpuctl.core.plan import Plan
    from gpuctl.workflows.follow import Follower, Update
    from gpuctl.workflows.hosts import RunHandle


NO_LOSSES = "no line looks like a loss: see docs/metrics.md"
REMIND_AFTER_S = 30.0


def follow_log(run: RunHandle, *, lines: int | None) -> HostState | None:
    """Show the log from its last `lines` (None: the start) to the end of training; the state then, None if detached.

    If the run has ended and its host is gone, show what was downloaded of its log. Of several hosts, one that is lost
    is named and the others are followed to their end. Raises HostError then, unless the training failed on another.
    """
    from gpuctl.workflows.follow import Follower, followed
    from gpuctl.workflows.hosts import hosts_known

    shown = _ShownLogs(run, [Follower(host) for host in hosts_known(run)])
    try:
        shown.history(lines)
        for place, what in followed(shown.followers, on_lost=_tell_lost):
            shown.take(place, what)
        return shown.end()
    except KeyboardInterrupt:
        detached(run.name)
    return None


class _ShownLogs:
    """The logs of a run's hosts on this terminal: of several, each line with its host's number."""

    def __init__(self, run: RunHandle, followers: Sequence[Follower]) -> None:
        from gpuctl.ui.log import LogPrinter

        self._run, self.followers = run, followers
        self._printer, self._reminder = LogPrinter(), LossReminder()
        self._ended: dict[int, HostState] = {}
        self._lost: dict[int, GpuctlError] = {}

    def history(self, lines: int | None) -> None:
        """What is here already: all of it, or so many lines."""
        for place, follower in enumerate(self.followers):
            self._show(place, follower.history() if lines is None else last_of(follower.last_lines(lines), lines))

    def take(self, place: int, what: Update | GpuctlError) -> None:
        """What came of a host, or why nothing more will."""
        if isinstance(what, GpuctlError):
            self._lose(place, what)
            return
        self._show(place, () if what.again else what.lines)
        if len(self.followers) == 1 and what.of_log and not what.again:
            log = self.followers[0].losses.log
            self._printer.partial(log.partial, overwrites=log.overwrites)
        if self._reminder.due(self.followers):
            self._printer.finish()
            click.echo(NO_LOSSES, err=True)
        if what.ended is not None:
            self._ended[place] = what.ended

    def end(self) -> HostState:
        """How the training ended. Raises what kept a host's log from coming whole."""
        from gpuctl.workflows.each_host import Outcome, raise_failed

        self._printer.finish()
        failed = next((state for state in self._ended.values() if state.training == "failed"), None)
        if failed is not None:
            return failed
        if self._lost and not self._ended:
            raise self._lost[0]
        if self._lost:
            of = {place: self.followers[place].run.number for place in self._lost}
            lost = [Outcome[None](of[place], error=error) for place, error in self._lost.items()]
            raise_failed("the log is incomplete:", self._run.name, lost)
        return self._ended[0]

    def _lose(self, place: int, error: GpuctlError) -> None:
        from gpuctl.workflows.follow import ended_as_seen

        follower = self.followers[place]
        state = ended_as_seen(follower.run) if isinstance(error, HostUnreachable) else None
        if state is not None:
            self._show(place, follower.losses.log.finish())
            self._ended[place] = state
            return
        self._lost[place] = error
        if len(self.followers) > 1:
            self._printer.finish()
            click.echo(safe(f"no more log from host {follower.run.number}: {error.message}"), err=True)

    def _show(self, place: int, lines: Sequence[LogLine]) -> None:
        from gpuctl.ui.log import of_host

        if len(self.followers) > 1:
            lines = [of_host(line, self.followers[place].run.number) for line in lines]
        self._printer.show(*lines)


class LossReminder:
    """Knows when it is time to say, once, that a training has run for a while and no loss was found."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began, self.told = clock, clock(), False

    def due(self, followers: Sequence[Follower]) -> bool:
        """True once, where none of these has found a loss."""
        late = self._clock() - self._began >= REMIND_AFTER_S
        if self.told or not late or not all(follower.no_losses for follower in followers):
            return False
        self.told = True
        return True


def _tell_lost(why: str) -> None:
    click.echo(f"{safe(why)}; trying again", err=True)


def detached(run: str) -> int:
    """What Ctrl-C does once training runs: stop following, let it run. Raises KeyboardInterrupt if it never started."""
    if not run_folder(paths().runs, run).progress().started:
        raise KeyboardInterrupt
    click.echo(f"\ndetached; {run} keeps running. Next: gpuctl tail {run}, gpuctl down {run}", err=True)
    return 0


def still_there(run: str) -> GpuctlError:
    """What Ctrl-C leaves once training has ended, as the error that ends the command."""
    if run_folder(paths().runs, run).progress().down:
        return Interrupted(f"interrupted; {run} is down")
    return LeftBehind(
        f"interrupted; the host of {run} may still run and cost money",
        f"`gpuctl pull {run}` downloads its outputs, `gpuctl down {run}` does so and deletes the host",
    )


def after_the_end(
    run: RunHandle,
    state: HostState | None,
    *,
    pull_to: Path | None,
    down_after: bool,
    wish: Wish,
) -> int:
    """Download and take down, if that was asked for; nothing is taken down if something would be lost.

    Raises NotHome in that case, TrainingFailed if the command failed.
    """
    if state is None:
        return 0
    name = run.name
    click.echo(f"{name} {ending(state)}", err=True)
    left = _bring_home(run, pull_to, wish=wish) if pull_to is not None else None
    if left is not None and down_after:
        raise left
    if down_after:
        _take_down(run, pull_to, wish=wish)
    else:
        by_itself = _until(state, run.folder.read().plan, home=pull_to is not None and left is None)
        click.echo(
            f"the host keeps running{by_itself} and costs money: gpuctl pull {name}, gpuctl down {name}", err=True
        )
    raise_if_failed(run, state)
    if left is not None:
        raise left
    return 0


def _bring_home(run: RunHandle, pull_to: Path, *, wish: Wish) -> NotHome | None:
    """Download the outputs; what of them is on the host alone. Raises HostError if a host gave nothing."""
    from gpuctl.cli.pull import tell
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.pull import free_place, not_home, pull

    with Phases() as phases:
        pulled = pull(run, free_place(pull_to, run.name, run.folder), wish=wish, reporter=phases)
    for one in pulled.results:
        tell(one)
    pulled.raise_failed()
    return next(filter(None, (not_home(run.name, one) for one in pulled.results)), None)


def _take_down(run: RunHandle, pulled_to: Path | None, *, wish: Wish) -> None:
    from gpuctl.ui.progress import Phases
    from gpuctl.workflows.down import down
    from gpuctl.workflows.hosts import AWS_IS_SILENT

    name = run.name
    with Phases() as phases:
        try:
            went = down([run], discard=False, now=now(), reporter=phases, wish=wish)
        except AWS_IS_SILENT as error:
            home = f"its outputs are in {pulled_to}, " if pulled_to is not None else ""
            raise type(error)(
                f"{name} could not be taken down: {error.message}",
                f"{home}its host is still running and costs money: `gpuctl down {name}` removes it",
            ) from error
    click.echo(f"{name}: {'nothing is left' if not went.left else f'resources left: {len(went.left)}'}", err=True)


def _until(state: HostState, plan: Plan, *, home: bool) -> str:
    """When the host ends by itself: as it said at the end of the training, or by what `--then down` promised."""
    if state.power_off_at is not None:
        return f" until {state.power_off_at.astimezone():%H:%M}"
    then_s = plan.lease.then_s
    return f" for {then_s / 60:g} min" if then_s is not None and home else ""


def raise_if_failed(run: RunHandle, state: HostState) -> None:
    """Raises TrainingFailed if the training command failed."""
    from gpuctl.workflows.hints import hint_after_failure

    if state.training == "failed":
        raise TrainingFailed(failure(run.name, state), hint_after_failure(run))


def only_what_is_here(run: RunHandle, error: HostError) -> None:
    """Say why only what this machine has is shown, unless the run was taken down. Raises HostKeyMismatch."""
    if isinstance(error, HostKeyMismatch):
        raise error
    if not run.folder.progress().down:
        click.echo(safe(f"{error.message}; showing what had arrived by then"), err=True)


def last_of(lines: Sequence[LogLine], count: int) -> list[LogLine]:
    """The last lines; of what is written over, as a progress bar is, only what is seen at the end."""
    pairs = zip_longest(lines, lines[1:])
    seen = [line for line, after in pairs if after is None or line.points or not line.transient]
    return seen[max(0, len(seen) - count) :]


def show_last(run: RunHandle, *, lines: int, to_stderr: bool = False) -> None:
    """Show the last lines of each host's log as it is now; if a host is gone, of what was downloaded.

    Raises HostError, once the others' lines are shown, if there are none of a host.
    """
    from gpuctl.ui.console import err, out
    from gpuctl.ui.log import LogPrinter, of_host
    from gpuctl.workflows.each_host import each_host, raise_failed
    from gpuctl.workflows.hosts import hosts_known

    found = each_host(hosts_known(run), lambda host: _last_lines(host, lines))
    printer = LogPrinter(err() if to_stderr else out())
    for one in found:
        printer.show(*(line if len(found) == 1 else of_host(line, one.number) for line in one.result or ()))
        printer.finish()
    raise_failed("no log from", run.name, found)


def _last_lines(host: RunHandle, lines: int) -> list[LogLine]:
    from gpuctl.workflows.follow import Follower

    follower = Follower(host)
    found, read_again = last_of(follower.last_lines(lines), lines), False
    try:
        for update in follower.updates(until_end=False):
            if update.again and not read_again:
                found, read_again = [], True
            found = last_of([*found, *update.lines], lines)
    except HostError as error:
        found.extend(follower.losses.log.finish())
        if not found:
            raise
        only_what_is_here(host, error)
    return last_of(found, lines)
