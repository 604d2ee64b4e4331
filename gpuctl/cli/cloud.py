"""`gpuctl cloud`: the embedded cloud, an EC2 API on loopback whose hosts really run."""

from __future__ import annotations

import shlex

import click

from gpuctl.cli.options import json_option, print_json
from gpuctl.core.errors import NotFound
from gpuctl.core.outputs import amount
from gpuctl.state.paths import paths


@click.group("cloud", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Manage the embedded cloud: an EC2 API on this machine whose hosts are real processes. It starts when needed."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the API on 127.0.0.1 (default: a free one).")
@click.option(
    "--python",
    "pythons",
    metavar="PATH",
    multiple=True,
    help="Python for the hosts. Repeatable: the default image uses the first; each further one gets its own image.",
)
@json_option
def start(port: int | None, pythons: tuple[str, ...], as_json: bool) -> None:
    """Start the embedded cloud, or print its address if it is already running."""
    from gpuctl.workflows.clouds import OPEN_TO_ALL, lost_in_words, start_embedded

    cloud = start_embedded(paths(), port=port, pythons=pythons)
    if as_json:
        print_json({"endpoint": cloud.endpoint, "lost": cloud.lost})
        return
    click.echo(f"the embedded cloud is at {cloud.endpoint}")
    if cloud.lost:
        click.echo(lost_in_words(cloud.lost, paths()))
    if not cloud.key:
        click.echo(f"{OPEN_TO_ALL}: `gpuctl cloud stop`, then `gpuctl cloud start`")


@command.command()
def stop() -> None:
    """Stop the embedded cloud and all of its hosts."""
    from gpuctl.workflows.clouds import stop_embedded

    stop_embedded(paths())
    click.echo("the embedded cloud and all of its hosts are stopped")


@command.command()
@json_option
def status(as_json: bool) -> None:
    """Show whether the embedded cloud is running, and how many instances it has."""
    from gpuctl.workflows.clouds import embedded_status

    cloud = embedded_status(paths())
    if as_json:
        print_json(cloud)
    elif cloud["running"]:
        click.echo(f"running at {cloud['endpoint']}, instances: {cloud['instances']}")
        for python in cloud["pythons"]:
            click.echo(f"Python {python['version']} ({python['path']}): {python['image_parameters']['x86_64']}")
    else:
        click.echo("not running; `gpuctl --cloud embedded launch JOB` or `gpuctl cloud start` starts it")
    if not as_json and (there := cloud["environments"])["count"]:
        size = amount(there["bytes"])
        click.echo(f"installed for hosts, in {there['folder']}: {size}; `gpuctl cloud clean` removes what no host uses")


@command.command()
def clean() -> None:
    """Remove installed packages that no host uses any more."""
    from gpuctl.workflows.clouds import clean_embedded

    cleaned = clean_embedded(paths())
    count = cleaned["removed"]
    kept = f"; {cleaned['kept']} in use" if cleaned["kept"] else ""
    click.echo(f"removed {count} environment{'s' * (count != 1)} ({amount(cleaned['bytes'])}){kept}")


@command.command()
def env() -> None:
    """Print exports that point any AWS client at the embedded cloud: eval "$(gpuctl cloud env)"."""
    from gpuctl.workflows.clouds import embedded_environment, embedded_if_running

    cloud = embedded_if_running(paths())
    if cloud is None:
        raise NotFound("the embedded cloud is not running", "start it with `gpuctl cloud start`")
    for name, value in embedded_environment(cloud).items():
        click.echo(f"export {name}={shlex.quote(value)}")
