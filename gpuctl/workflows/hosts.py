"""From a run's name to its hosts: the account it is in, its instances, a verified connection to one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuctl.aws.access import admits, caller_cidr, set_caller
from gpuctl.aws.account import Account
from gpuctl.aws.inventory import find_instances, find_resources
from gpuctl.aws.offers import prices
from gpuctl.core.errors import HostError, HostUnreachable, NotFound
from gpuctl.core.hosts import Instance, Reach
from gpuctl.core.profile import Profile
from gpuctl.remote.host import Host
from gpuctl.remote.reach import reach_of
from gpuctl.remote.ssh_config import render_known_hosts, render_ssh_config
from gpuctl.state.places import Places
from gpuctl.state.runs import RunFolder, run_folder
from gpuctl.workflows.clouds import open_cloud

_ADMITTED_WITHIN_S = 20
"""EC2 applies a rule at once, and a connection that is refused in the moment before is tried again."""


def nobody(_text: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class OpenRun:
    """A run, its cloud, its account, and what this laptop keeps of it."""

    name: str
    profile: Profile
    account: Account
    folder: RunFolder
    tell: Callable[[str], None] = nobody


def open_run(
    name: str,
    *,
    places: Places,
    cloud: str | None,
    region: str | None = None,
    tell: Callable[[str], None] = nobody,
) -> OpenRun:
    """A run by name. Which cloud and region it is in is what this laptop knows of it, unless said.

    `tell` hears what a person should know though nobody asked: hosts lost with their cloud, an address that changed.
    """
    folder = run_folder(places.runs, name)
    if folder.exists():
        plan = folder.read().plan
        cloud, region = cloud or plan.cloud, region or plan.region
    profile = open_cloud(cloud or "aws", places, on_lost=tell)
    return OpenRun(name, profile, Account(profile, region), folder, tell)


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


def open_host(run: OpenRun) -> Host:
    """The run's host, connected, to be used as a context manager. Raises HostError kinds.

    A host that does not answer may have been told to let in the address that this laptop had before: where the run's
    group names another, it is made to name this one.
    """
    host = host_of(run)
    try:
        host.connect()
    except HostUnreachable:
        if not _admit_caller(run):
            raise
        host.wait_until_reachable(time.monotonic() + _ADMITTED_WITHIN_S)
    return host


def _admit_caller(run: OpenRun) -> bool:
    """Let this laptop's address in where it is not; False where it was, and so is not why the host does not answer."""
    cidr = caller_cidr(run.profile)
    groups = [r.id for r in find_resources(run.account, run=run.name) if r.kind == "security-group"]
    changed = [group for group in groups if not admits(run.account, group, cidr)]
    for group in changed:
        set_caller(run.account, group, cidr)
        run.tell(f"your address has changed: {run.name} lets in {cidr} now, and no other")
    return bool(changed)


def host_of(run: OpenRun) -> Host:
    """The run's host, not connected yet. Raises HostError where there is none, or no key to it here."""
    if not run.folder.has_key():
        living_instance(run)
        raise HostError(
            f"this laptop has no key to run {run.name}",
            "it was launched from another: use that one, or `gpuctl down --discard`",
        )
    reach = reach_of(run.profile, living_instance(run), alias=run.name, user=run.folder.read().plan.login_user)
    return Host(reach, identity_file=run.folder.identity, known_hosts_file=run.folder.known_hosts)


def write_reach(folder: RunFolder, reaches: Sequence[Reach], host_public_key: str) -> None:
    """Pin the host key at the hosts' addresses, and say to plain `ssh` how they are reached."""
    folder.write_file("known_hosts", render_known_hosts(reaches, host_public_key))
    text = render_ssh_config(reaches, identity_file=folder.identity, known_hosts_file=folder.known_hosts)
    folder.write_file("ssh_config", text)
