"""`gpuctl watch`: train and validation loss, live."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gpuctl.cli.following import NO_LOSSES, LossReminder, raise_if_failed
from gpuctl.cli.options import run_command

if TYPE_CHECKING:
    from gpuctl.core.host_state import HostState
    from gpuctl.ui.watch import WatchView
    from gpuctl.workflows.follow import Follower
    from gpuctl.workflows.hosts import RunHandle
    from gpuctl.workflows.interrupts import EndingSignals


@click.command("watch")
@run_command
def command(run: RunHandle) -> None:
    """Plot the losses live, with their latest values, speed, cost, time left and GPU use.

    Press q or Ctrl-C to stop watching.
    """
    from gpuctl.ui.watch import WatchView
    from gpuctl.workflows.follow import Follower
    from gpuctl.workflows.hosts import running_costs
    from gpuctl.workflows.interrupts import EndingSignals

    told = _Told(run.tell)
    follower = Follower(replace(run, tell=told), gpus=True)
    costs = running_costs(run)
    view = WatchView(
        run.name,
        price_usd_per_hour=costs.price_usd_per_hour,
        started=costs.since,
        lease_ends=costs.lease_ends,
    )
    reminder = LossReminder()
    try:
        with EndingSignals() as signals:
            ended = _shown(follower, view, reminder, told, signals)
    except KeyboardInterrupt:
        ended = None
        _say(f"{run.name} keeps running. Next: gpuctl watch {run.name}, gpuctl down {run.name}")
    if view.live and reminder.told and follower.no_losses:
        _say(NO_LOSSES)
    if ended is not None:
        raise_if_failed(run, ended)


def _say(what: str) -> None:
    """For a person, whose terminal may have been closed."""
    from gpuctl.ui.console import unfailing

    click.echo(what, file=unfailing(sys.stderr))


class _Told:
    """What the run says while it is watched: at once where nothing is drawn, else as the view's notice and after it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._kept: list[str] = []
        self.view: WatchView | None = None

    def __call__(self, what: str) -> None:
        if self.view is None or not self.view.live:
            self._tell(what)
            return
        self._kept.append(what)
        self.view.update(notice=what)

    @property
    def newest(self) -> str:
        """The view's notice; empty where nothing was said."""
        return self._kept[-1] if self._kept else ""

    def afterwards(self) -> None:
        """Tell what the view has taken with it."""
        self.view = None
        for what in dict.fromkeys(self._kept):
            self._tell(what)


def _shown(
    follower: Follower, view: WatchView, reminder: LossReminder, told: _Told, signals: EndingSignals
) -> HostState | None:
    """Watch on the terminal, which is put back however that ends: no signal interrupts the drawing's begin or end."""
    from gpuctl.ui.keys import leaves_on_q
    from gpuctl.workflows.interrupts import nobody

    signals.hold()
    try:
        with view, leaves_on_q() if view.live else nullcontext():
            told.view = view
            try:
                signals.release()
                return _watched(follower, view, reminder, told)
            finally:
                signals.only_note(nobody)
    finally:
        told.afterwards()


def _watched(follower: Follower, view: WatchView, reminder: LossReminder, told: _Told) -> HostState | None:
    """Show what comes, to the end of the training; the state then."""
    from gpuctl.ui.watch import LOG_LINES

    ended = None
    view.update(lines=follower.history(LOG_LINES), points=follower.losses.points)
    for update in follower.updates(on_lost=lambda why: view.update(notice=why, lost=True)):
        lines = () if update.again else update.lines
        notice = NO_LOSSES if reminder.told and follower.no_losses else told.newest
        if reminder.due([follower]) and not view.live:
            click.echo(NO_LOSSES, err=True)
        view.update(
            lines=lines,
            points=follower.losses.points,
            state=update.ended,
            gpus=update.gpus,
            notice=notice if view.live else "",
        )
        ended = update.ended or ended
    return ended
