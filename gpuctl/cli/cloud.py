"""`gpuctl cloud`: the embedded cloud, an EC2 API on loopback whose hosts really run."""

from __future__ import annotations

import shlex

import click

from gpuctl.cli.options import json_option, print_json
from gpuctl.core.errors import NotFound
from gpuctl.state.places import places


@click.group("cloud")
def command() -> None:
    """The embedded cloud: an EC2 API on this machine, with hosts that really run. It starts when it is first needed."""


@command.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The API's port on 127.0.0.1 (a free one unless said).")
@click.option(
    "--python",
    "pythons",
    metavar="PATH",
    multiple=True,
    help="The hosts' python3 (repeatable: the first is the default image's, each other gets an image of its own).",
)
@json_option
def start(port: int | None, pythons: tuple[str, ...], as_json: bool) -> None:
    """Start it, or say where it is."""
    from gpuctl.workflows.clouds import lost_in_words, start_embedded

    cloud = start_embedded(places(), port=port, pythons=pythons)
    if as_json:
        print_json({"endpoint": cloud["endpoint"], "lost": cloud["lost"]})
        return
    click.echo(f"the embedded cloud is at {cloud['endpoint']}")
    if cloud["lost"]:
        click.echo(lost_in_words(cloud["lost"], places()))


@command.command()
def stop() -> None:
    """End it and every host in it."""
    from gpuctl.workflows.clouds import stop_embedded

    stop_embedded(places())
    click.echo("the embedded cloud is stopped; nothing of it runs")


@command.command()
@json_option
def status(as_json: bool) -> None:
    """Whether it runs, and with how many instances."""
    from gpuctl.workflows.clouds import embedded_status

    cloud = embedded_status(places())
    if as_json:
        print_json(cloud)
    elif cloud["running"]:
        click.echo(f"running at {cloud['endpoint']}, {cloud['instances']} instances")
        for python in cloud["pythons"]:
            click.echo(f"Python {python['version']} ({python['path']}): {python['image_parameters']['x86_64']}")
    else:
        click.echo("not running; `gpuctl --cloud embedded launch JOB` or `gpuctl cloud start` starts it")


@command.command()
def env() -> None:
    """The exports with which any AWS client reaches it: eval "$(gpuctl cloud env)"."""
    from gpuctl.workflows.clouds import embedded_environment, embedded_if_running

    cloud = embedded_if_running(places())
    if cloud is None:
        raise NotFound("the embedded cloud is not running", "start it with `gpuctl cloud start`")
    for name, value in embedded_environment(cloud["endpoint"]).items():
        click.echo(f"export {name}={shlex.quote(value)}")
