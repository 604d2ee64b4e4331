"""From a run's name to its hosts: the account it is in, its instances, a verified connection to one of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from gpuctl.aws.access import allow_ssh_from, allows_ssh, caller_cidr
from gpuctl.aws.account import Account
from gpuctl.aws.inventory import find_instances, find_resources
from gpuctl.aws.offers import prices
from gpuctl.core.errors import (
    CloudError,
    CloudGone,
    HostError,
    HostGone,
    HostKeyMismatch,
    HostStopped,
    HostUnreachable,
    NotAllowed,
    NotFound,
)
from gpuctl.core.host_state import HostState
from gpuctl.core.hosts import Instance, SSHTarget, by_number, host_alias
from gpuctl.core.profile import Profile
from gpuctl.remote.host import Host
from gpuctl.remote.ssh_config import parse_ssh_config, render_known_hosts, render_ssh_config
from gpuctl.remote.ssh_target import ssh_target
from gpuctl.remote.training import training_state
from gpuctl.state.paths import Paths
from gpuctl.state.runs import HostFolder, RunFolder, run_folder
from gpuctl.workflows.clouds import open_cloud

_ADMITTED_WITHIN_S = 20
"""EC2 applies a rule at once, and a connection that is refused in the moment before is tried again."""

ALIVE = ("pending", "running")
"""EC2's words for an instance that can be connected to, now or soon."""
HOLDING = (*ALIVE, "stopping", "stopped")
"""And for one that has what a run wrote on its disk."""

_KEEPING = threading.Lock()
"""Hosts of one run are reached at the same time, and share its known_hosts and its ssh_config."""

AWS_IS_SILENT = (CloudError, NotAllowed)
"""What is raised where AWS does not tell: no network to it, credentials that expired overnight, throttling."""


def nobody(_text: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class RunHandle:
    """A run, its cloud, its account, what this laptop keeps of it, and the number of the host that is meant."""

    name: str
    profile: Profile
    account: Account
    folder: RunFolder
    tell: Callable[[str], None] = nobody
    number: int = 0

    @property
    def alias(self) -> str:
        """What `ssh` calls the host."""
        return host_alias(self.name, self.number)

    @property
    def instance_id(self) -> str | None:
        """The host's instance, where this laptop made it or has seen it."""
        made = self.folder.progress().instance_ids
        return made[self.number] if self.number < len(made) else None

    @property
    def kept(self) -> HostFolder:
        """What this laptop keeps of the host."""
        return self.folder.host(self.number)


def hosts_known(run: RunHandle) -> list[RunHandle]:
    """The run's hosts that this laptop has made or reached, by number, gone or not: AWS is not asked. At least one."""
    made = len(run.folder.progress().instance_ids)
    reached = {one.alias for one in _stored_targets(run.folder)}
    hosts = [replace(run, number=number) for number in range(max(1, made, len(reached)))]
    return [host for host in hosts if host.number < max(1, made) or host.alias in reached]


def _numbered(run: RunHandle) -> dict[int, Instance]:
    return by_number(instances_of(run), run.folder.progress().instance_ids)


def open_run(
    name: str,
    *,
    paths: Paths,
    cloud: str | None,
    region: str | None = None,
    tell: Callable[[str], None] = nobody,
) -> RunHandle:
    """A run by name. Which cloud and region it is in is what this laptop knows of it, unless said.

    `tell` hears what a person should know though nobody asked: hosts lost with their cloud, an address that changed.
    """
    folder = run_folder(paths.runs, name)
    if folder.exists():
        stored = folder.header()
        cloud, region = cloud or stored.cloud, region or stored.region
    profile = open_cloud(cloud or "aws", paths, on_lost=tell)
    return RunHandle(name, profile, Account(profile, region), folder, tell)


def instances_of(run: RunHandle, *, include_gone: bool = False) -> list[Instance]:
    """The run's instances by tag. Raises NotFound where neither the account nor this laptop knows of the run."""
    instances = find_instances(run.account, run=run.name, owner=None, include_gone=include_gone)
    if not instances and not run.folder.exists():
        raise NotFound(f"there is no run called {run.name!r} in {run.account.region}", "`gpuctl ls` shows the runs")
    return instances


def living_instance(run: RunHandle) -> Instance:
    """The instance that is meant, where it can be connected to. Raises HostGone or HostStopped otherwise."""
    instance = _numbered(run).get(run.number)
    if instance is not None and instance.state in ("pending", "running"):
        return instance
    if instance is not None and instance.state in ("stopping", "stopped"):
        raise HostStopped(
            f"the host of {run.alias} ({instance.instance_id}) is stopped, and its disk is kept",
            f"`gpuctl pull {run.name}` starts it again, which costs money, and downloads its outputs; "
            f"`gpuctl down {run.name}` then removes it",
        )
    progress = run.folder.progress()
    if progress.down:
        home = f"its outputs are in {progress.destination}" if progress.destination else "nothing was downloaded"
        raise HostGone(f"run {run.name} was taken down", home)
    why = "it was reclaimed, or its lease ended"
    if progress.home:
        why = f"it has ended, and everything it wrote is in {progress.destination}"
    raise HostGone(
        f"run {run.alias} no longer has a host: {why}",
        f"`gpuctl down {run.name}` removes what is left",
    )


def stopped_instance(run: RunHandle) -> Instance:
    """The instance that is meant, where it is switched off; one that was started meanwhile. Raises HostGone."""
    instance = _numbered(run).get(run.number)
    return instance if instance is not None and instance.state in HOLDING else living_instance(run)


@dataclass(frozen=True)
class Running:
    """What a run's host costs, since when, and until when it may run; where AWS does not tell, as planned, or None."""

    price_usd_per_hour: Decimal | None
    since: datetime | None
    lease_ends: datetime


def running_costs(run: RunHandle) -> Running:
    """What it costs to have the run's host. Raises HostGone or HostStopped where it has none that runs."""
    try:
        (instance,) = prices(run.account, [living_instance(run)])
    except AWS_IS_SILENT:
        if not run.folder.exists():
            raise
        record = run.folder.read()
        return Running(record.current.best.price_usd_per_hour, None, record.plan.lease.ends)
    return Running(instance.price_usd_per_hour, instance.launched, instance.tags.lease_ends)


def open_host(run: RunHandle) -> Host:
    """The run's host, connected, to be used as a context manager. Raises HostError kinds.

    It is looked for where it was last: its key is pinned, so nothing else can be taken for it, and what it alone can
    answer needs no AWS. Where it does not answer there, EC2 tells what became of it: HostGone, HostStopped, another
    address. Where AWS does not answer either, it is HostUnreachable: nobody knows.
    """
    stored = _stored_target(run)
    if stored is None:
        return _connected(run, current_target(run, living_instance(run)))
    host = host_at(run, stored)
    try:
        host.connect()
    except (HostUnreachable, HostKeyMismatch) as error:
        host.close()
        return _found_by_ec2(run, stored, error)
    return host


def _found_by_ec2(run: RunHandle, stored: SSHTarget, error: HostError) -> Host:
    """The host that did not answer where it was, where EC2 or its rules tell why. Raises `error` otherwise."""
    try:
        target = current_target(run, living_instance(run))
        admitted = admit_caller(run)
    except CloudGone:
        raise
    except AWS_IS_SILENT as silent:
        raise type(error)(
            f"{error.message}; AWS could not be asked about it ({silent.message})", silent.next_step
        ) from error
    if target == stored and not admitted:
        raise error
    return _connected(run, target)


def _connected(run: RunHandle, target: SSHTarget) -> Host:
    keep_target(run, target)
    host = host_at(run, target)
    host.wait_until_reachable(time.monotonic() + _ADMITTED_WITHIN_S)
    return host


def current_target(run: RunHandle, instance: Instance) -> SSHTarget:
    """Where the instance is now. Raises HostUnreachable where it has no address."""
    stored = _stored_targets(run.folder)
    user = stored[0].user if stored else run.folder.read().current.image.login_user
    return ssh_target(run.profile, instance, alias=run.alias, user=user)


def _stored_target(run: RunHandle) -> SSHTarget | None:
    """Where the run's host was last. Raises HostError where this laptop has no key to it."""
    if not run.folder.has_key():
        living_instance(run)
        raise HostError(
            f"this laptop has no key for run {run.name}",
            f"use the laptop that launched it, or discard its outputs: gpuctl down {run.name} --discard",
        )
    return _target_of(run)


def _target_of(run: RunHandle) -> SSHTarget | None:
    return next((one for one in _stored_targets(run.folder) if one.alias == run.alias), None)


def _stored_targets(folder: RunFolder) -> list[SSHTarget]:
    """Where the run's hosts were last, as its ssh_config says."""
    try:
        return parse_ssh_config(os.fsdecode(folder.ssh_config.read_bytes()))
    except (OSError, ValueError):
        return []


def host_at(run: RunHandle, target: SSHTarget) -> Host:
    return Host(target, identity_file=run.folder.identity, known_hosts_file=run.folder.known_hosts)


def ask_state(run: RunHandle, *, timeout_s: float) -> HostState:
    """What the run's host says of its training now, asked where it was last and of nobody else.

    A host that answers and has no payload that does has no training: `none`. Raises HostError kinds.
    """
    stored = _stored_target(run)
    if stored is None:
        raise HostUnreachable(f"the host of {run.name} was never reached")
    with host_at(run, stored) as host:
        host.connect(timeout_s=timeout_s)
        try:
            return training_state(host, gpus=False, timeout_s=timeout_s)
        except HostUnreachable:
            raise
        except HostError:
            return HostState("none")


def refresh_ssh_target(run: RunHandle) -> None:
    """Have the run's ssh_config name where its host is now, as far as AWS tells. Raises HostError kinds."""
    stored = _stored_target(run)
    try:
        target = current_target(run, living_instance(run))
    except AWS_IS_SILENT:
        if stored is None:
            raise
        return
    keep_target(run, target)


def keep_target(run: RunHandle, target: SSHTarget) -> None:
    """Have the run's known_hosts and ssh_config name where this host is; its pinned key, and the others, stay."""
    with _KEEPING:
        targets = {one.alias: one for one in _stored_targets(run.folder)}
        if target != targets.get(run.alias):
            write_targets(run.folder, list({**targets, run.alias: target}.values()), _pinned_key(run.folder))


def admit_caller(run: RunHandle) -> bool:
    """Let this laptop's address in where it is not; False where it was, and so is not why the host does not answer."""
    cidr = caller_cidr(run.profile)
    groups = [r.id for r in find_resources(run.account, run=run.name) if r.kind == "security-group"]
    changed = [group for group in groups if not allows_ssh(run.account, group, cidr)]
    for group in changed:
        allow_ssh_from(run.account, group, cidr)
        run.tell(f"your address has changed: {run.name} now accepts SSH from {cidr} only")
    return bool(changed)


def write_targets(folder: RunFolder, targets: Sequence[SSHTarget], host_public_key: str) -> None:
    """Pin the host key at the hosts' addresses, and say to plain `ssh` how they are reached."""
    folder.write_file("known_hosts", render_known_hosts(targets, host_public_key))
    text = render_ssh_config(targets, identity_file=folder.identity, known_hosts_file=folder.known_hosts)
    folder.write_file("ssh_config", text)


def _pinned_key(folder: RunFolder) -> str:
    """The host key that was pinned at the launch, whatever address it was pinned at."""
    known = folder.known_hosts.read_text().split()
    return " ".join(known[1:3]) if len(known) >= 3 else (folder.path / "host_key.pub").read_text()
