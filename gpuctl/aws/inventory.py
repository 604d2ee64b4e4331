"""What there is, by tag, and its removal. The account is the database: nothing else is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuctl.aws.account import Account
from gpuctl.aws.errors import Means, aws_errors, classify, code_of
from gpuctl.aws.instances import as_instance
from gpuctl.aws.parallel import NotYet, together, until
from gpuctl.core.errors import CloudError, GpuctlError
from gpuctl.core.hosts import Instance
from gpuctl.core.tags import OWNER, RUN, RunTags

_LIVING = ("pending", "running", "shutting-down", "stopping", "stopped")
_BATCH = 100


@dataclass(frozen=True)
class Resource:
    """Something of a run's. `kind` is EC2's own word, as in a tag specification: `instance`, `security-group`, …"""

    kind: str
    id: str
    run: str


@dataclass(frozen=True)
class _Listing:
    """How one kind is listed: the paginated operation, the key of its items, of their id and of their tags."""

    kind: str
    operation: str
    items: str
    id: str
    tags: str = "Tags"
    living: Callable[[Any], bool] = lambda item: True


_LISTINGS = (
    _Listing("launch-template", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateId"),
    _Listing(
        "volume",
        "describe_volumes",
        "Volumes",
        "VolumeId",
        living=lambda item: item.get("State") not in ("deleting", "deleted"),
    ),
    _Listing(
        "network-interface",
        "describe_network_interfaces",
        "NetworkInterfaces",
        "NetworkInterfaceId",
        tags="TagSet",
    ),
    _Listing("security-group", "describe_security_groups", "SecurityGroups", "GroupId"),
)


def find_instances(
    account: Account, *, run: str | None = None, owner: str | None = None, include_gone: bool = False
) -> list[Instance]:
    """gpuctl's instances, oldest first; those of one run or owner where one is given."""
    filters = _tag_filters(run, owner)
    if not include_gone:
        filters.append({"Name": "instance-state-name", "Values": list(_LIVING)})
    with aws_errors("list the instances"):
        pages = account.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        raws = [raw for page in pages for held in page["Reservations"] for raw in held["Instances"]]
    found = [as_instance(raw) for raw in raws]
    ours = [one for one in found if one.tags.run and run in (None, one.tags.run) and owner in (None, one.tags.owner)]
    return sorted(ours, key=lambda one: (one.launched, one.instance_id))


def find_resources(account: Account, *, run: str | None = None, owner: str | None = None) -> list[Resource]:
    """Everything of gpuctl's that is there, of one run or owner where one is given: hosts first, then by kind.

    Fleets are left out: one of the type `instant` has done its work when its call returns, costs nothing, and EC2 lists
    it for nobody who does not know its id.
    """

    def instances() -> list[Resource]:
        found = find_instances(account, run=run, owner=owner)
        return [Resource("instance", one.instance_id, one.tags.run) for one in found]

    def listed(listing: _Listing) -> Callable[[], list[Resource]]:
        return lambda: list(_list(account, listing, run=run, owner=owner))

    account.client("ec2")
    parts = together([instances, *(listed(listing) for listing in _LISTINGS)])
    return [resource for part in parts for resource in part]


def remove(
    account: Account,
    resources: Iterable[Resource],
    *,
    deadline: float,
    sleep: Callable[[float], None] = time.sleep,
    on_removed: Callable[[Resource], None] = lambda resource: None,
) -> None:
    """Remove what is given, and wait until it is gone: instances first, security groups last. Gone already is gone.

    `deadline` is a time.monotonic(). One that cannot be removed does not keep the others: at the end the first error is
    raised, or CloudError with what is left.
    """
    todo = list(resources)
    failed: list[GpuctlError] = []
    instances = [one for one in todo if one.kind == "instance"]
    try:
        _terminate(account, instances, deadline=deadline, sleep=sleep, on_removed=on_removed)
    except GpuctlError as error:
        failed.append(error)
    for kind in ("launch-template", "volume", "network-interface", "security-group"):
        for one in todo:
            if one.kind != kind:
                continue
            try:
                _remove_one(account, one, deadline=deadline, sleep=sleep)
            except GpuctlError as error:
                failed.append(error)
            else:
                on_removed(one)
    if failed:
        raise failed[0]


def _list(account: Account, listing: _Listing, *, run: str | None, owner: str | None) -> Iterator[Resource]:
    """Tags are compared here too, so that what is removed never hangs on how a filter reads a value."""
    ec2: Any = account.client("ec2")
    with aws_errors(f"list what there is ({listing.kind})"):
        pages = list(ec2.get_paginator(listing.operation).paginate(Filters=_tag_filters(run, owner)))
    for page in pages:
        for item in page[listing.items]:
            tags = RunTags.from_dict({tag["Key"]: tag["Value"] for tag in item.get(listing.tags, [])})
            if tags is None or run not in (None, tags.run) or owner not in (None, tags.owner):
                continue
            if listing.living(item):
                yield Resource(listing.kind, item[listing.id], tags.run)


def _tag_filters(run: str | None, owner: str | None) -> list[Any]:
    named = [(RUN, run), (OWNER, owner)]
    filters = [{"Name": f"tag:{key}", "Values": [_literal(value)]} for key, value in named if value is not None]
    return [*filters, {"Name": "tag-key", "Values": [RUN]}]


def _literal(value: str) -> str:
    """A filter's value that matches itself alone (EC2 User Guide, 'Filtering')."""
    return value.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")


def _terminate(
    account: Account,
    instances: Sequence[Resource],
    *,
    deadline: float,
    sleep: Callable[[float], None],
    on_removed: Callable[[Resource], None],
) -> None:
    left = {one.id: one for one in instances}
    for start in range(0, len(instances), _BATCH):
        _terminate_batch(account, [one.id for one in instances[start : start + _BATCH]])

    def look() -> None:
        gone = _gone(account, list(left))
        for id_ in gone:
            on_removed(left.pop(id_))
        if left:
            raise NotYet

    try:
        with aws_errors("wait for the instances to end"):
            until(look, deadline=deadline, sleep=sleep)
    except NotYet as error:
        raise CloudError(f"not terminated in time: {', '.join(left)}", "run the same command again") from error


def _terminate_batch(account: Account, ids: Sequence[str]) -> None:
    """Terminate them; where EC2 refuses the whole call for one that is gone, one by one."""
    ec2 = account.client("ec2")
    with aws_errors(f"terminate {', '.join(ids)}"):
        try:
            ec2.terminate_instances(InstanceIds=list(ids))
            return
        except ec2.exceptions.ClientError as error:
            if classify(code_of(error)) is not Means.GONE:
                raise
    if len(ids) > 1:
        for id_ in ids:
            _terminate_batch(account, [id_])


def _gone(account: Account, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that are terminated, or that EC2 no longer knows. By filter, which takes unknown ids."""
    if not ids:
        return set()
    living: set[str] = set()
    pages = account.client("ec2").get_paginator("describe_instances")
    for start in range(0, len(ids), _BATCH):
        filters: Any = [
            {"Name": "instance-id", "Values": list(ids[start : start + _BATCH])},
            {"Name": "instance-state-name", "Values": list(_LIVING)},
        ]
        for page in pages.paginate(Filters=filters):
            living |= {raw["InstanceId"] for held in page["Reservations"] for raw in held["Instances"]}
    return set(ids) - living


def _remove_one(account: Account, one: Resource, *, deadline: float, sleep: Callable[[float], None]) -> None:
    ec2 = account.client("ec2")
    deletions: Mapping[str, Callable[[], object]] = {
        "launch-template": lambda: ec2.delete_launch_template(LaunchTemplateId=one.id),
        "volume": lambda: ec2.delete_volume(VolumeId=one.id),
        "network-interface": lambda: ec2.delete_network_interface(NetworkInterfaceId=one.id),
        "security-group": lambda: ec2.delete_security_group(GroupId=one.id),
    }

    def attempt() -> None:
        try:
            deletions[one.kind]()
        except ec2.exceptions.ClientError as error:
            code = code_of(error)
            if classify(code) is Means.GONE:
                return
            # A network interface that is still attached is refused with this code (DeleteNetworkInterface).
            attached = one.kind == "network-interface" and code == "InvalidParameterValue"
            if classify(code) is Means.WAIT or attached:
                raise NotYet(str(error)) from error
            raise

    try:
        with aws_errors(f"remove the {one.kind} {one.id}"):
            until(attempt, deadline=deadline, sleep=sleep)
    except NotYet as error:
        raise CloudError(f"the {one.kind} {one.id} is still in use: {error}", "run the same command again") from error
