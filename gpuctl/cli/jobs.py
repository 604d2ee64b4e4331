"""`gpuctl jobs`: what comes with gpuctl."""

from __future__ import annotations

import shlex

import click

from gpuctl.cli.options import json_option, print_json


@click.command("jobs")
@json_option
def command(as_json: bool) -> None:
    """The packaged jobs. `gpuctl launch NAME` trains one on a GPU, `gpuctl local NAME` here."""
    from gpuctl.workflows.jobs import packaged_jobs

    rows = [
        {
            "name": loaded.folder.name,
            "summary": loaded.job.summary,
            "command": shlex.join(loaded.job.command),
            "presets": list(loaded.job.presets),
        }
        for loaded in packaged_jobs()
    ]
    if as_json:
        print_json({"jobs": rows})
        return
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import jobs_table

    show(jobs_table(rows))
