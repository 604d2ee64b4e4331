"""A host that boots, for the first time or again: waited for, with an eye on what EC2 says of it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from gpuctl.aws.inventory import find_instances
from gpuctl.aws.power import start_instance
from gpuctl.core.errors import CloudGone, GpuctlError, HostError, HostGone, HostStopped, HostUnreachable
from gpuctl.core.hosts import Instance, SSHTarget
from gpuctl.remote.host import Host
from gpuctl.workflows.hosts import (
    AWS_IS_SILENT,
    RunHandle,
    admit_caller,
    current_target,
    host_at,
    keep_target,
    open_host,
    stopped_instance,
)

BOOT_TIMEOUT_S = 600
START_TIMEOUT_S = 600
LOOK_EVERY_S = 5.0
_ADMIT_EVERY = 4
_TIME_TO_PULL = timedelta(minutes=3)
_REASONS = {
    "Server.SpotInstanceTermination": "EC2 has reclaimed the spot host",
    "Server.ScheduledStop": "AWS has retired the machine",
    "Client.UserInitiatedShutdown": "somebody shut it down",
    "Client.InstanceInitiatedShutdown": "it powered itself off, as it does when its lease ends",
}


def wait_for_boot(run: RunHandle, instance: Instance, *, within_s: float = BOOT_TIMEOUT_S) -> Host:
    """The run's host, connected, to be used as a context manager.

    EC2 is looked at meanwhile, as far as it answers: HostGone or HostStopped at once where the instance has ended; one
    that is at another address by now is looked for there; this laptop's own address, where it changed, is let in.
    """
    deadline = time.monotonic() + within_s
    target = current_target(run, instance)
    while True:
        keep_target(run, target)
        host = host_at(run, target)
        try:
            host.wait_until_reachable(deadline, on_wait=_Look(run, instance.instance_id, target))
        except _Moved as moved:
            host.close()
            run.tell(f"{instance.instance_id} has a new address")
            target = moved.target
        except BaseException:
            host.close()
            raise
        else:
            return host


class _Moved(Exception):  # a signal within this module
    def __init__(self, target: SSHTarget) -> None:
        super().__init__(target)
        self.target = target


class _Look:
    """Hears each failed try, and asks EC2 every some seconds what became of the instance."""

    def __init__(
        self, run: RunHandle, instance_id: str, target: SSHTarget, clock: Callable[[], float] = time.monotonic
    ):
        self._run, self._instance_id, self._target, self._clock = run, instance_id, target, clock
        self._next = clock() + LOOK_EVERY_S
        self._looks = 0

    def __call__(self, _error: HostError) -> None:
        if self._clock() < self._next:
            return
        try:
            self._look()
        except CloudGone:
            raise
        except AWS_IS_SILENT:
            pass  # nobody knows: the host itself is still waited for
        self._next = self._clock() + LOOK_EVERY_S

    def _look(self) -> None:
        found = find_instances(self._run.account, run=self._run.name, include_gone=True)
        for instance in found:
            if instance.instance_id == self._instance_id:
                self._judge(instance)
        self._looks += 1
        if self._looks % _ADMIT_EVERY == 1:
            admit_caller(self._run)

    def _judge(self, instance: Instance) -> None:
        if instance.state in ("shutting-down", "terminated"):
            raise HostGone(f"{instance.instance_id} ended while gpuctl was waiting for it: {_reason(instance)}")
        if instance.state in ("stopping", "stopped"):
            raise HostStopped(
                f"{instance.instance_id} was stopped while gpuctl was waiting for it: {_reason(instance)}",
                f"`gpuctl down {self._run.name}` removes it",
            )
        try:
            target = current_target(self._run, instance)
        except HostUnreachable:  # it has no address yet
            return
        if target != self._target:
            raise _Moved(target)


def _reason(instance: Instance) -> str:
    return _REASONS.get(instance.state_reason, instance.state_reason or "EC2 does not say why")


def open_host_started(run: RunHandle) -> Host:
    """`open_host`; a host that is switched off is started first, for what is on its disk.

    Raises HostStopped where it cannot be started, or would end itself at once.
    """
    try:
        return open_host(run)
    except HostStopped:
        instance = stopped_instance(run)
    lose = f"or discard what is on its disk with `gpuctl down {run.name} --discard`"
    if instance.tags.lease_ends < datetime.now(timezone.utc) + _TIME_TO_PULL:
        raise HostStopped(
            f"the host of {run.name} ({instance.instance_id}) is stopped, and its lease has ended: "
            "if started, it would terminate itself at once",
            f"attach its disk to an instance of your own, {lose}",
        )
    run.tell(f"the host of {run.name} was stopped: starting it again, which costs money")
    try:
        instance = start_instance(run.account, instance.instance_id, deadline=time.monotonic() + START_TIMEOUT_S)
        admit_caller(run)
    except GpuctlError as error:
        again = "try again later" if instance.market == "on-demand" else "EC2 does not restart spot hosts"
        raise HostStopped(
            f"the host of {run.name} is stopped and cannot be started ({error.message})", f"{again}, {lose}"
        ) from error
    return wait_for_boot(run, instance)
