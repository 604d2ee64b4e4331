"""From a run's name to its hosts: the account it is in, its instances, a verified connection to one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuctl.aws.account import Account
from gpuctl.aws.inventory import find_instances
from gpuctl.aws.offers import prices
from gpuctl.core.errors import HostError, HostUnreachable, NotFound
from gpuctl.core.hosts import Instance, Reach
from gpuctl.core.profile import Profile
from gpuctl.remote.host import Host
from gpuctl.remote.reach import reach_of
from gpuctl.remote.ssh_config import render_known_hosts, render_ssh_config
from gpuctl.state.places import Places
from gpuctl.state.runs import RunFolder, all_run_folders, run_folder
from gpuctl.workflows.clouds import open_cloud


@dataclass(frozen=True)
class OpenRun:
    """A run, its cloud, its account, and what this laptop keeps of it."""

    name: str
    profile: Profile
    account: Account
    folder: RunFolder


def open_run(
    name: str,
    *,
    places: Places,
    cloud: str | None,
    region: str | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> OpenRun:
    """A run by name. Which cloud and region it is in is what this laptop knows of it, unless said.

    `on_lost` is `open_cloud`'s.
    """
    folder = run_folder(places.runs, name)
    if folder.exists():
        plan = folder.read().plan
        cloud, region = cloud or plan.cloud, region or plan.region
    profile = open_cloud(cloud or "aws", places, on_lost=on_lost)
    return OpenRun(name, profile, Account(profile, region), folder)


def instances_of(run: OpenRun, *, include_gone: bool = False) -> list[Instance]:
    """The run's instances by tag. Raises NotFound where neither the account nor this laptop knows of the run."""
    instances = find_instances(run.account, run=run.name, owner=None, include_gone=include_gone)
    if not instances and not run.folder.exists():
        raise NotFound(f"there is no run called {run.name!r} in {run.account.region}", "`gpuctl ls` shows the runs")
    return instances


def living_instance(run: OpenRun) -> Instance:
    """The run's instance that can be connected to. Raises HostUnreachable with what became of it otherwise."""
    living = [i for i in instances_of(run) if i.state in ("pending", "running")]
    if living:
        return living[0]
    progress = run.folder.progress()
    if progress.down:
        home = f"what came home is in {progress.destination}" if progress.destination else "nothing came home"
        raise HostUnreachable(f"run {run.name} was taken down", home)
    raise HostUnreachable(
        f"run {run.name} has no host any more: it was reclaimed, or its lease ended",
        f"`gpuctl down {run.name}` removes what is left",
    )


def priced_instance(run: OpenRun) -> Instance:
    """The run's instance, with what it costs now."""
    (instance,) = prices(run.account, [living_instance(run)])
    return instance


def connect(run: OpenRun, instance: Instance | None = None) -> Host:
    """A verified connection to the run's host, to be used as a context manager. Raises HostError kinds."""
    if not run.folder.has_key():
        living_instance(run)
        raise HostError(
            f"this laptop has no key to run {run.name}",
            "it was launched from another: use that one, or `gpuctl down --discard`",
        )
    instance = instance or living_instance(run)
    reach = reach_of(run.profile, instance, alias=run.name, user=run.folder.read().plan.login_user)
    return Host(reach, identity_file=run.folder.identity, known_hosts_file=run.folder.known_hosts)


def write_reach(folder: RunFolder, reaches: Sequence[Reach], host_public_key: str) -> None:
    """Pin the host key at the hosts' addresses, and say to plain `ssh` how they are reached."""
    folder.write_file("known_hosts", render_known_hosts(reaches, host_public_key))
    text = render_ssh_config(reaches, identity_file=folder.identity, known_hosts_file=folder.known_hosts)
    folder.write_file("ssh_config", text)


def known_names(places: Places) -> list[str]:
    """The names of the runs that this laptop knows of, for completion."""
    return [folder.name for folder in all_run_folders(places.runs)]
