"""What there is, by tag, and its removal. The account is the database: nothing else is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gpuctl.aws.account import Account
from gpuctl.aws.errors import aws_errors
from gpuctl.aws.instances import as_instance
from gpuctl.aws.kinds import INSTANCE, KINDS, Kind
from gpuctl.aws.parallel import gather
from gpuctl.core.errors import GpuctlError
from gpuctl.core.hosts import Instance
from gpuctl.core.tags import OWNER, RUN, RunTags

_LIVING = ("pending", "running", "shutting-down", "stopping", "stopped")
AWAY_S = 30.0
"""What was made, and has not been found for so long, is not there: EC2 may take seconds to know of what it made."""
CONFIRM_S = 2.0
"""What was found, and now is not, is looked for once more after so long."""


@dataclass(frozen=True)
class Resource:
    """Something of a run's. `kind` is EC2's own word, as in a tag specification: `instance`, `security-group`, …

    `seen` is false where only the call that made it has told of it: it may be there although it is not found.
    """

    kind: str
    id: str
    run: str
    seen: bool = field(default=True, compare=False)


def find_instances(
    account: Account, *, run: str | None = None, owner: str | None = None, include_gone: bool = False
) -> list[Instance]:
    """gpuctl's instances, oldest first; those of one run or owner where one is given."""
    filters = _tag_filters(run, owner)
    if not include_gone:
        filters.append({"Name": "instance-state-name", "Values": list(_LIVING)})
    with aws_errors("list the instances"):
        pages = account.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        found = [as_instance(raw) for page in pages for held in page["Reservations"] for raw in held["Instances"]]
    ours = [one for one in found if one.tags.run and run in (None, one.tags.run) and owner in (None, one.tags.owner)]
    return sorted(ours, key=lambda one: (one.launched, one.instance_id))


def find_resources(account: Account, *, run: str | None = None, owner: str | None = None) -> list[Resource]:
    """Everything of gpuctl's that is there, of one run or owner where one is given: hosts first, then by kind.

    Fleets are left out: one of the type `instant` has done its work when its call returns, costs nothing, and EC2 lists
    it for nobody who does not know its id.
    """

    account.client("ec2")
    parts = gather(_lists(account, run=run, owner=owner))
    return [resource for part in parts for resource in part]


def survey(account: Account, *, run: str) -> tuple[list[Resource], list[GpuctlError]]:
    """What of a run's is there, and why a kind could not be listed: one does not keep the others."""

    def tried(part: Callable[[], list[Resource]]) -> Callable[[], list[Resource] | GpuctlError]:
        def call() -> list[Resource] | GpuctlError:
            try:
                return part()
            except GpuctlError as error:
                return error

        return call

    account.client("ec2")
    parts = gather([tried(part) for part in _lists(account, run=run, owner=None)])
    failed = [part for part in parts if isinstance(part, GpuctlError)]
    return [one for part in parts if not isinstance(part, GpuctlError) for one in part], failed


def _lists(account: Account, *, run: str | None, owner: str | None) -> list[Callable[[], list[Resource]]]:
    def instances() -> list[Resource]:
        found = find_instances(account, run=run, owner=owner)
        return [Resource(INSTANCE, one.instance_id, one.tags.run) for one in found]

    return [instances, *(partial(_list, account, kind, run=run, owner=owner) for kind in KINDS)]


def _list(account: Account, kind: Kind, *, run: str | None, owner: str | None) -> list[Resource]:
    """Tags are compared here too, so that what is removed never hangs on how a filter reads a value."""
    ec2: Any = account.client("ec2")
    with aws_errors(f"list the run's resources ({kind.name})"):
        pages = list(ec2.get_paginator(kind.describe).paginate(Filters=_tag_filters(run, owner)))
        items = [item for page in pages for item in page[kind.items]]
        found = [(_tags(one.get(kind.tags_key, [])), one[kind.id_key], kind.is_there(one)) for one in items]
    return [
        Resource(kind.name, id_, tags.run)
        for tags, id_, there in found
        if there and tags is not None and run in (None, tags.run) and owner in (None, tags.owner)
    ]


def _tags(told: list[Any]) -> RunTags | None:
    return RunTags.from_dict({tag["Key"]: tag["Value"] for tag in told})


def _tag_filters(run: str | None, owner: str | None) -> list[Any]:
    named = [(RUN, run), (OWNER, owner)]
    filters = [{"Name": f"tag:{key}", "Values": [_literal(value)]} for key, value in named if value is not None]
    return [*filters, {"Name": "tag-key", "Values": [RUN]}]


def _literal(value: str) -> str:
    """A filter's value that matches itself alone (EC2 User Guide, 'Filtering')."""
    return value.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
