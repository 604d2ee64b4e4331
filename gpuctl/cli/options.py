"""The options that several commands have, and what they stand for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from gpuctl.core.errors import GpuctlError, UsageError
from gpuctl.core.text import safe
from gpuctl.state.paths import Paths, paths

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from gpuctl.core.answers import SilentRegion
    from gpuctl.core.profile import Profile
    from gpuctl.workflows.hosts import RunHandle

F = TypeVar("F", bound=Callable[..., Any])


DEST = click.Path(file_okay=False, path_type=Path)
"""Where outputs go: a folder, which need not exist yet."""


def complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    runs = paths().runs
    names = sorted(p.name for p in runs.iterdir() if (p / "run.json").exists()) if runs.is_dir() else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def run_argument(function: F) -> F:
    """The RUN that a command is about."""
    return click.argument("run", metavar="RUN", shell_complete=complete_run)(function)


def cloud_options(function: F) -> F:
    """`--cloud` and `--region`."""
    function = click.option("--region", metavar="REGION", help="AWS region.")(function)
    return click.option("--cloud", metavar="aws|embedded", help="Cloud to use (default: $GPUCTL_CLOUD, else aws).")(
        function
    )


def max_size_option(function: F) -> F:
    """`--max-size`."""
    return click.option(
        "--max-size",
        "max_size",
        metavar="SIZE",
        callback=_size,
        help="Size limit for files that are neither checkpoints nor in outputs/; 'none' for no limit (default: 2GB).",
    )(function)


def everything_option(function: F) -> F:
    """`--everything`."""
    text = "Download everything that the command wrote, regardless of [outputs] in job.toml."
    return click.option("--everything", "all_written", is_flag=True, help=text)(function)


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    from gpuctl.core.outputs import MAX_SIZE, parse_size

    return MAX_SIZE if value is None else parse_size(value)


def requirement_option(function: F) -> F:
    """`--requirement`."""
    return click.option(
        "--requirement",
        multiple=True,
        metavar="NAME",
        help="Package that the job needs in addition to its requirements.txt. Repeatable.",
    )(function)


def json_option(function: F) -> F:
    """`--json`: only the documented answer on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def yes_option(function: F) -> F:
    """`-y`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation; required without a terminal.")(
        function
    )


def chosen_cloud(cloud: str | None) -> str | None:
    """The cloud that was chosen: after the command, before it or in the environment."""
    before = (click.get_current_context().find_root().obj or {}).get("cloud")
    return cloud or before or os.environ.get("GPUCTL_CLOUD") or None


def profile_of(cloud: str | None) -> tuple[Profile, Paths]:
    """The cloud that was chosen, otherwise `aws`."""
    from gpuctl.workflows.clouds import open_cloud

    here = paths()
    return open_cloud(chosen_cloud(cloud) or "aws", here, on_lost=_tell), here


def open_run_of(run: str, cloud: str | None, region: str | None) -> RunHandle:
    """The run that was named."""
    from gpuctl.workflows.hosts import open_run

    return open_run(run, paths=paths(), cloud=chosen_cloud(cloud), region=region, tell=_tell)


def run_command(function: F) -> F:
    """A command about one run: RUN, `--cloud` and `--region`, which arrive as the opened run."""

    @cloud_options
    @run_argument
    @wraps(function)
    def command(run: str, cloud: str | None, region: str | None, **options: Any) -> Any:
        return function(open_run_of(run, cloud, region), **options)

    return cast(F, command)


def _tell(what: str) -> None:
    click.echo(what, err=True)


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(timezone.utc)


def print_json(value: object) -> None:
    """One document on standard output."""
    from gpuctl.core.codec import dumps

    click.echo(dumps(value, indent=2 if sys.stdout.isatty() else None))


def check_all_told(silent: Sequence[SilentRegion], again: str) -> None:
    """Raises GpuctlError where a region that was asked did not answer: what is there is not in what was shown."""
    if silent:
        regions = ", ".join(one.region for one in silent)
        raise GpuctlError(f"{regions} did not answer, see above", f"`{again}` again once AWS answers there")


def tell_silent(silent: Sequence[SilentRegion]) -> None:
    """Say which regions did not answer, and why."""
    for one in silent:
        click.echo(safe(f"nobody knows what is up in {one.region} ({one.error})"), err=True)


def check_can_ask(command: str, *, yes: bool) -> None:
    """Refuse what asks for confirmation if it is neither given nor anybody there to ask. Raises UsageError."""
    if not yes and not sys.stdin.isatty():
        raise UsageError(f"{command} needs confirmation, and this is not a terminal", "add -y to confirm")


def agreed(question: str, *, yes: bool, default: bool = True) -> bool:
    """True with `--yes`; otherwise the answer. The question is broken between words where the terminal is narrow."""
    if yes:
        return True
    from shutil import get_terminal_size
    from textwrap import fill

    width = max(20, get_terminal_size().columns - len(" [Y/n]: "))
    shown = fill(question, width, break_long_words=False, break_on_hyphens=False)
    return click.confirm(shown, default=default, err=True)
