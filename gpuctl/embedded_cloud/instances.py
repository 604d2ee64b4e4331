"""The lives of instances: pending, running, stopping, stopped, shutting-down, terminated, each with its host or none.

moto holds what the API tells of them. Whatever changes that holds `lock`, the one lock around moto; hosts boot and end
on threads of their own, which take the lock only to write down what has come of them.
"""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from moto.ec2.models.instances import InstanceState as MotoState
from moto.ec2.models.instances import StateReason

from gpuctl.embedded_cloud.host import cleanup
from gpuctl.embedded_cloud.host_faults import HostFaults
from gpuctl.embedded_cloud.host_process import HostProcess
from gpuctl.embedded_cloud.place import Place
from gpuctl.embedded_cloud.sockets import listen

VISIBLE_AFTER_END_S = 3600.0
END_TIMEOUT_S = 15.0
_MOMENT_S = 0.1
_STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
USER_ENDED = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
HOST_ENDED = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
RECLAIMED = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
RETIRED = ("Server.ScheduledStop", "Server.ScheduledStop: Stopped due to scheduled retirement")
_INITIATED = {USER_ENDED[0]: "User", RECLAIMED[0]: "Service", RETIRED[0]: "Service"}

log = logging.getLogger(__name__)

HostMaker = Callable[..., HostProcess]


@dataclass
class InstanceState:
    """An instance's life. `goal` is the state that it is to come to; `port` where its host listens, None while it has
    no address; `last_port` where it did before it was stopped."""

    instance: Any
    goal: str = "running"
    host: HostProcess | None = None
    listener: Any = None
    port: int | None = None
    last_port: int | None = None
    faults: HostFaults | None = None
    boot_error: str | None = None
    reclaimed_at: datetime | None = None
    ended_at: float | None = None
    tokens: dict[str, float] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """True once it has ended for good."""
        return self.ended_at is not None


class Instances:
    """All instances of a cloud, in all regions. `make_host` is None on a cloud without hosts."""

    def __init__(self, *, lock: threading.RLock, place: Place, make_host: HostMaker | None) -> None:
        self.lock = lock
        self._place = place
        self._make_host = make_host
        self._lives: dict[str, InstanceState] = {}

    def life(self, instance_id: str) -> InstanceState | None:
        """The life of one instance, while EC2 still knows it."""
        return self._lives.get(instance_id)

    def alive(self) -> list[InstanceState]:
        """The lives that have not ended for good."""
        return [life for life in list(self._lives.values()) if not life.gone]

    def launched(self, instance: Any) -> None:
        """A new instance, `pending`: its host begins to boot."""
        life = self._lives[instance.id] = InstanceState(instance)
        self._note(life, None)
        self._boot(life)

    def start(self, instance: Any) -> None:
        """A stopped instance: its host boots again from the disk that it has, and is at another address."""
        life = self._lives[instance.id]
        if instance.state == "stopped":
            life.goal = "running"
            _set(instance, "pending", ("", ""))
            instance.launch_time = datetime.now(timezone.utc)
            for interface in instance.nics.values():
                interface.start()
            self._boot(life)

    def stop(self, instance: Any, reason: tuple[str, str] = USER_ENDED) -> None:
        """Ends the host and keeps its disk; AWS itself does it at a retirement (RETIRED)."""
        life = self._lives[instance.id]
        if life.goal in ("running", "reboot") and not life.gone:
            life.goal = "stopped"
            _set(instance, "stopping", reason)
            self._end_host(life)

    def reboot(self, instance: Any) -> None:
        """Ends the host and boots it again; the instance is `running` all the time, as EC2's."""
        life = self._lives[instance.id]
        if instance.state == "running" and life.host and life.goal == "running":
            life.goal = "reboot"
            life.host.end()

    def terminate(self, instance: Any, reason: tuple[str, str] = USER_ENDED) -> None:
        """Ends the host; its disk and volumes go with it."""
        life = self._lives[instance.id]
        if life.goal != "terminated" and not life.gone:
            life.goal = "terminated"
            _set(instance, "shutting-down", reason)
            self._end_host(life)

    def reclaim(self, life: InstanceState, *, notice_s: float) -> datetime:
        """Tells a spot instance that it will be taken back, and does so after the notice (EC2 gives two minutes)."""
        life.reclaimed_at = datetime.now(timezone.utc) + timedelta(seconds=notice_s)
        _call_after(notice_s, self._take_back, life)
        return life.reclaimed_at

    def _take_back(self, life: InstanceState) -> None:
        with self.lock:
            self.terminate(life.instance, RECLAIMED)

    def faults(self, life: InstanceState) -> HostFaults | None:
        """The faults of a host that runs; None where an instance has none."""
        with self.lock:
            pid = life.host.pid if life.host and life.goal == "running" else None
            if pid is not None and life.faults is None:
                life.faults = HostFaults(first=pid, mark=life.instance.id)
            return life.faults

    def forget_old(self) -> None:
        """Drops instances that ended an hour ago, as EC2 does."""
        horizon = time.monotonic() - VISIBLE_AFTER_END_S
        for instance_id, life in list(self._lives.items()):
            if life.ended_at is not None and life.ended_at < horizon:
                del self._lives[instance_id]
                _drop(life.instance)

    def end_all(self) -> None:
        """Ends every host, waits for each, removes their disks: the cloud is going."""
        with self.lock:
            lives = self.alive()
            for life in lives:
                life.goal = "gone"
                if life.host:
                    life.host.end()
        deadline = time.monotonic() + END_TIMEOUT_S
        for life in lives:
            ended = life.host is None or life.host.wait(max(1.0, deadline - time.monotonic()))
            self._remove(life, killed=not ended)

    def _boot(self, life: InstanceState) -> None:
        if self._make_host is None:
            self._later(life, "booted")
            return
        if life.listener is None:
            life.listener = _listen_elsewhere(life.last_port)
            life.port = life.listener.getsockname()[1]
        life.faults = None
        life.host = self._make_host(
            life.instance,
            listener=life.listener,
            on_event=lambda event: self._on_event(life, event),
            on_pid=lambda pid: self._note(life, pid),
        )
        life.host.start()

    def _end_host(self, life: InstanceState) -> None:
        if life.host:
            life.host.end()
        else:
            self._later(life, "ended")

    def _later(self, life: InstanceState, event: str) -> None:
        """Where there is no host, what it would have said follows in a moment: states take one here too."""
        _call_after(_MOMENT_S, self._on_event, life, {"event": event, "reason": "lifeline"})

    def _on_event(self, life: InstanceState, event: dict[str, Any]) -> None:
        if event["event"] == "booted":
            with self.lock:
                if life.goal == "running" and life.instance.state == "pending":
                    _set(life.instance, "running", ("", ""))
        elif event["event"] == "boot-warning":
            log.warning("%s: %s", life.instance.id, event.get("message"))
        elif event["event"] == "boot-error":
            life.boot_error = str(event.get("message"))
            log.error("%s: %s", life.instance.id, life.boot_error)
        elif event["event"] == "ended":
            self._on_end(life, str(event.get("reason")))

    def _on_end(self, life: InstanceState, reason: str) -> None:
        with self.lock:
            if life.goal == "reboot" or (life.goal == "running" and reason == "reboot"):
                life.goal = "running"
                self._boot(life)
                return
            if life.goal == "gone":
                return
            if life.goal == "running":
                self._ended_by_itself(life, reason)
            life.host = None
            if life.listener is not None:
                life.listener.close()
                life.listener = None
        if life.goal == "terminated":
            self._remove(life, killed=reason == "crash")
        with self.lock:
            self._settle(life)

    def _ended_by_itself(self, life: InstanceState, reason: str) -> None:
        """A host that powered off follows its shutdown behaviour; one that failed is lost, and says why."""
        instance = life.instance
        stays = reason == "poweroff" and instance.instance_initiated_shutdown_behavior == "stop"
        life.goal = "stopped" if stays else "terminated"
        if reason == "poweroff":
            why = HOST_ENDED
        else:
            why = ("Server.InternalError", f"Server.InternalError: {life.boot_error or 'the host ended: ' + reason}")
        _set(instance, "stopping" if stays else "shutting-down", why)

    def _settle(self, life: InstanceState) -> None:
        instance = life.instance
        reason = (instance.state_reason.code, instance.state_reason.message)
        if life.goal == "terminated":
            _forget_resources(instance)
            instance.terminate()
            life.ended_at = time.monotonic()
        elif life.goal == "stopped":
            instance.stop()
            life.last_port, life.port = life.port, None
        _set(instance, "terminated" if life.goal == "terminated" else "stopped", reason)

    def _note(self, life: InstanceState, pid: int | None) -> None:
        """Writes the instance into the ledger, which a cloud that comes after a crash reads."""
        self._place.ledger.mkdir(mode=0o700, exist_ok=True)
        (self._place.ledger / life.instance.id).write_text("" if pid is None else str(pid), encoding="ascii")

    def _remove(self, life: InstanceState, *, killed: bool) -> None:
        """Removes the disk; where the host's first process was killed, what it would have ended too."""
        disk = self._place.hosts / life.instance.id
        if killed:
            cleanup.clear(disk, life.instance.id)
        shutil.rmtree(disk, ignore_errors=True)
        (self._place.ledger / life.instance.id).unlink(missing_ok=True)


def _call_after(seconds: float, call: Callable[..., None], *words: Any) -> None:
    timer = threading.Timer(seconds, call, words)
    timer.daemon = True
    timer.start()


def _listen_elsewhere(port: int | None) -> socket.socket:
    """A listening socket on any port but this one."""
    found = listen(0)
    if found.getsockname()[1] != port:
        return found
    with found:
        return listen(0)


def _set(instance: Any, state: str, reason: tuple[str, str]) -> None:
    code, message = reason
    instance._state = MotoState(state, _STATES[state])
    instance.state_reason = StateReason(message, code)
    instance._reason = ""
    if code in _INITIATED:
        instance._reason = f"{_INITIATED[code]} initiated ({datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} GMT)"


def _forget_resources(instance: Any) -> None:
    """Takes the tags of what ends with an instance: moto would keep telling them."""
    tags = instance.ec2_backend.tags
    for device in instance.block_device_mapping.values():
        if device.delete_on_termination:
            tags.pop(device.volume_id, None)
    for interface in instance.nics.values():
        if interface.delete_on_termination:
            tags.pop(interface.id, None)


def _drop(instance: Any) -> None:
    backend = instance.ec2_backend
    backend.tags.pop(instance.id, None)
    for reservation_id, reservation in list(backend.reservations.items()):
        reservation.instances = [other for other in reservation.instances if other is not instance]
        if not reservation.instances:
            del backend.reservations[reservation_id]
