"""Eventual consistency: what was made a moment ago, and is not seen yet by whoever asks for it.

EC2 answers a creation before all of it knows of what was made
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/query-api-troubleshooting.html#eventual-consistency).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_BY_OPERATION: Mapping[str, frozenset[str]] = {
    "TerminateInstances": frozenset({"instance"}),
    "StopInstances": frozenset({"instance"}),
    "StartInstances": frozenset({"instance"}),
    "RebootInstances": frozenset({"instance"}),
    "DeleteLaunchTemplate": frozenset({"launch-template"}),
    "CreateLaunchTemplateVersion": frozenset({"launch-template"}),
    "DeleteSecurityGroup": frozenset({"security-group"}),
    "AuthorizeSecurityGroupIngress": frozenset({"security-group"}),
    "RevokeSecurityGroupIngress": frozenset({"security-group"}),
    "DeleteVolume": frozenset({"volume"}),
    "DeleteNetworkInterface": frozenset({"network-interface"}),
}
_ALL = frozenset({"instance", "launch-template", "security-group", "volume", "network-interface"})


class Unseen:
    """The ids of what is not seen yet, each until a moment of its own."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def hide(self, ids: Iterable[str], seconds: float) -> None:
        """Nobody sees these for so long."""
        until = time.monotonic() + seconds
        self._until.update(dict.fromkeys(ids, until))

    def clear(self) -> None:
        """All is seen."""
        self._until.clear()

    def ids(self) -> frozenset[str]:
        """What is not seen now."""
        now = time.monotonic()
        for id_, until in list(self._until.items()):
            if until <= now:
                self._until.pop(id_, None)
        return frozenset(self._until)


def with_parts(instance: Any) -> Iterator[str]:
    """An instance's id and those of its disks and network interfaces, which are seen when it is."""
    yield instance.id
    yield from (device.volume_id for device in instance.block_device_mapping.values() if device.volume_id)
    yield from (interface.id for interface in instance.nics.values())


@contextmanager
def hidden(backend: Any, ids: frozenset[str], operation: str) -> Iterator[None]:
    """Within, moto's backend is without those of `ids` that the operation does not see. The caller holds the lock.

    Names stay taken: a creation sees everything.
    """
    kinds = _ALL if operation.startswith("Describe") else _BY_OPERATION.get(operation, frozenset())
    if not ids or not kinds:
        yield
        return
    names = dict(backend.launch_template_name_to_ids)
    stores = list(_stores(backend, kinds))
    held = [(store, dict(store)) for store in stores]
    reservations = [(one, list(one.instances)) for one in backend.reservations.values()] if "instance" in kinds else []
    for store in stores:
        for id_ in ids & set(store):
            del store[id_]
    if "launch-template" in kinds:
        for name in [name for name, id_ in names.items() if id_ in ids]:
            del backend.launch_template_name_to_ids[name]
    for reservation, instances in reservations:
        reservation.instances = [one for one in instances if one.id not in ids]
    try:
        yield
    finally:
        for store, before in held:
            _put_back(store, before, ids)
        _put_back(backend.launch_template_name_to_ids, names, {n for n, id_ in names.items() if id_ in ids})
        for reservation, instances in reservations:
            reservation.instances = instances


def _stores(backend: Any, kinds: frozenset[str]) -> Iterator[dict[str, Any]]:
    if "launch-template" in kinds:
        yield backend.launch_templates
    if "security-group" in kinds:
        yield from backend.groups.values()
    if "volume" in kinds:
        yield backend.volumes
    if "network-interface" in kinds:
        yield backend.enis


def _put_back(store: dict[str, Any], before: Mapping[str, Any], keys: Iterable[str]) -> None:
    """What was taken away is there again, in its place."""
    after = dict(store)
    kept = {key: value for key, value in before.items() if key in after or key in keys}
    store.clear()
    store.update(kept)
    store.update(after)
