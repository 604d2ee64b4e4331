"""The entry point: commands loaded when they are named, errors shown once, exit codes from the error's class.

`gpuctl --help` and tab completion import click and nothing heavier.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import click

from gpuctl import __version__
from gpuctl.core.errors import GpuctlError
from gpuctl.core.text import safe

COMMANDS = {
    "launch": "Launch a training job on its own GPU host.",
    "ls": "List the runs in the account.",
    "status": "Show one run: hosts, cost, lease, losses.",
    "tail": "Follow a run's log, with its losses highlighted.",
    "watch": "Plot training and validation loss live.",
    "metrics": "List every loss so far.",
    "attach": "Attach to the run's tmux session.",
    "ssh": "Open a shell, run a command or forward a port on the host.",
    "pull": "Download a run's outputs.",
    "stop": "Stop the training gracefully and keep the host.",
    "down": "Download the outputs, then delete everything that belongs to the run.",
    "jobs": "List the packaged jobs.",
    "local": "Run a job on this machine.",
    "offers": "Show GPU instance types and their current prices.",
    "cloud": "Manage the embedded cloud: start, stop, status, env, clean.",
}
"""Every command and its summary. The module and the function have the command's name (`ls` is `list_runs`)."""

_MODULES = {"ls": "list_runs", "local": "local_run"}


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Commands(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of a run's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gpuctl.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does it, and suggest what was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"no command {args[0]!r} (did you mean {near[0]}?)", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The summaries, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The commands that begin that way, and the group's own options."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=h) for n, h in COMMANDS.items() if n.startswith(incomplete)]
        return names if names or not incomplete.startswith("-") else super().shell_complete(ctx, incomplete)


@click.command(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", prog_name="gpuctl")
@click.option("--cloud", metavar="aws|embedded", help="Cloud to use (default: $GPUCTL_CLOUD, else aws).")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback when something fails.")
@click.pass_context
def gpuctl(ctx: click.Context, cloud: str | None) -> None:
    """Run a training job on a spot GPU, watch its losses and download the model.

    \b
    gpuctl launch char_rnn                        a packaged job
    gpuctl launch ./project -- python train.py    your own
    """
    ctx.obj = {"cloud": cloud}
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line and exit with the documented code.

    Messages go to standard error if they can: a terminal that was closed does not change the exit code.
    """
    from gpuctl.ui.console import unfailing

    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stderr = unfailing(sys.stderr)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _drop_output()
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open a standard stream that was closed (`gpuctl ls >&-`) as /dev/null: no socket may get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115  (for as long as the process lives)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def run(words: list[str]) -> int:
    """Run the command line and return its exit code."""
    debug, others = _without_debug(words)
    try:
        with _click_errors():
            code = gpuctl.main(args=others, prog_name="gpuctl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except GpuctlError as error:
        _tell(str(error))
        _remember(debug)
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except Exception as error:  # noqa: BLE001  (the one place where what nobody foresaw is told)
        where = _remember(debug)
        if isinstance(error, FileNotFoundError) and not error.filename and _folder_is_gone():
            _tell("the current folder was deleted; cd to another one")
            return 1
        if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
            if not error.filename:
                _drop_output()
            _tell(_of_this_machine(error))
            return 1
        _tell(f"unexpected {type(error).__name__}: {error}; please report it with {where}")
        return 1


def _without_debug(words: list[str]) -> tuple[bool, list[str]]:
    """Whether `--debug` is among gpuctl's own words, wherever it stands, and the other words."""
    end = words.index("--") if "--" in words else len(words)
    own = [word for word in words[:end] if word != "--debug"]
    return len(own) < end, own + words[end:]


def _folder_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  (asked for its error alone)
    except FileNotFoundError:
        return True
    return False


def _drop_output() -> None:
    """Standard output cannot be written: what it still holds must not fail again when the interpreter ends."""
    if sys.stdout.closed:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_this_machine(error: OSError) -> str:
    """A file error on this machine, in one line, with a way out if the file is gpuctl's own."""
    from pathlib import Path

    from gpuctl.state.paths import paths

    if not error.filename:
        return f"cannot write: {error.strerror}"
    what = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if Path(os.fsdecode(error.filename)).is_relative_to(paths().state.parent):
        return f"{what}; gpuctl keeps its files there: set GPUCTL_HOME to a writable folder"
    return what


class _ClickError(GpuctlError):
    """A click error, already phrased for a person."""


@contextmanager
def _click_errors() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        told = _ClickError(
            error.format_message().rstrip("."), f"see `{error.ctx.command_path if error.ctx else 'gpuctl'} --help`"
        )
        told.exit_code = 2
        raise told from error
    except click.ClickException as error:
        raise _ClickError(error.format_message()) from error
    except SystemExit as end:  # click's answer to a broken pipe
        raise BrokenPipeError from end
    except click.Abort as end:
        if isinstance(end.__cause__, EOFError):  # click takes every EOFError for the end of what a person types
            raise end.__cause__ from None
        raise KeyboardInterrupt from None


def _tell(text: str) -> None:
    click.echo(f"gpuctl: {safe(text)}", err=True)


def _remember(debug: bool) -> str:
    """Save the traceback to a file that a person can send; with `--debug`, also show it at once."""
    import traceback

    from gpuctl.state.paths import paths

    if debug:
        traceback.print_exc()
    log = paths().debug_log
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"\n$ gpuctl (arguments are not kept) {__version__}, Python {sys.version.split()[0]}\n")
            traceback.print_exc(file=file)
    except OSError:
        return "--debug"
    return str(log)
