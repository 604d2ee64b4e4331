"""`gpuctl watch`: train and validation loss, live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpuctl.cli.following import NO_LOSSES, LossReminder, raise_if_failed
from gpuctl.cli.options import run_command

if TYPE_CHECKING:
    from gpuctl.workflows.hosts import RunHandle


@click.command("watch")
@run_command
def command(run: RunHandle) -> None:
    """Plot the losses live, with their latest values, speed, cost, time left and GPU use. Ctrl-C stops watching."""
    from gpuctl.ui.watch import LOG_LINES, WatchView
    from gpuctl.workflows.follow import Follower
    from gpuctl.workflows.hosts import running_costs

    follower = Follower(run, gpus=True)
    costs = running_costs(run)
    view = WatchView(
        run.name,
        price_usd_per_hour=costs.price_usd_per_hour,
        started=costs.since,
        lease_ends=costs.lease_ends,
    )
    ended, reminder, remark = None, LossReminder(), ""
    try:
        with view:
            view.update(lines=follower.history(LOG_LINES), points=follower.losses.points)
            for update in follower.updates(on_lost=lambda why: view.update(notice=why)):
                lines = () if update.again else update.lines
                points = follower.losses.points
                remark = NO_LOSSES if reminder.due([follower]) else remark if follower.no_losses else ""
                view.update(lines=lines, points=points, state=update.ended, gpus=update.gpus, notice=remark)
                ended = update.ended or ended
    except KeyboardInterrupt:
        click.echo(f"{run.name} keeps running. Next: gpuctl watch {run.name}, gpuctl down {run.name}", err=True)
    if remark:
        click.echo(remark, err=True)
    if ended is not None:
        raise_if_failed(run.name, ended)
