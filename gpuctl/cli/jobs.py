"""`gpuctl jobs`: what comes with gpuctl."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpuctl.cli.options import json_option, print_json
from gpuctl.core.answers import FileRow, JobDetails, JobRow, OptionRow
from gpuctl.core.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from gpuctl.workflows.jobs import LoadedJob


def _complete_job(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from gpuctl.workflows.jobs import packaged_jobs

    names = [loaded.folder.name for loaded in packaged_jobs()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("jobs")
@click.argument("name", required=False, shell_complete=_complete_job)
@click.option(
    "--copy", "copy_to", type=click.Path(path_type=Path), metavar="DIR", help="Copy the job to a folder of your own."
)
@json_option
def command(name: str | None, copy_to: Path | None, as_json: bool) -> None:
    """List the packaged jobs, or show one: its command, presets, options and files.

    `gpuctl launch NAME` runs a job on a GPU, `gpuctl local NAME` on this machine. A copy can be launched as it is:
    `gpuctl launch ./DIR`.
    """
    from gpuctl.workflows.jobs import copy_job, packaged_job, packaged_jobs

    if name is None and copy_to is not None:
        raise UsageError("--copy needs the name of a job", "`gpuctl jobs` lists them")
    if name is None:
        rows = [_row(loaded) for loaded in packaged_jobs()]
        print_json({"jobs": rows}) if as_json else _show_all(rows)
        return
    loaded = packaged_job(name)
    if copy_to is None:
        details = _details(loaded)
        print_json(details) if as_json else _show(details)
        return
    files = copy_job(loaded, copy_to)
    if as_json:
        print_json({"job": loaded.folder.name, "folder": str(copy_to), "files": files})
        return
    where = str(copy_to) if copy_to.is_absolute() or copy_to.parts[:1] == ("..",) else f"./{copy_to}"
    click.echo(f"copied {len(files)} files to {where}; launch it as it is:\n  gpuctl launch {shlex.quote(where)}")


def _row(loaded: LoadedJob) -> JobRow:
    job = loaded.job
    return JobRow(loaded.folder.name, job.summary, shlex.join(job.command), job.presets)


def _details(loaded: LoadedJob) -> JobDetails:
    from gpuctl.workflows.job_options import options_of
    from gpuctl.workflows.jobs import files_of

    return JobDetails(
        **vars(_row(loaded)),
        requires_python=loaded.requires_python,
        requirements=loaded.requirements,
        options=tuple(OptionRow(one.name, one.help, one.defaults) for one in options_of(loaded)),
        files=tuple(FileRow(file.name, Path(file.source).stat().st_size) for file in files_of(loaded)),
    )


def _show_all(rows: list[JobRow]) -> None:
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import jobs_table

    show(jobs_table(rows))


def _show(job: JobDetails) -> None:
    from gpuctl.ui.console import show
    from gpuctl.ui.tables import job_view

    show(job_view(job))
