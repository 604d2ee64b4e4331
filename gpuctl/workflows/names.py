"""Which names a new run may have."""

from __future__ import annotations

from collections.abc import Sequence

from gpuctl.aws.inventory import Resource
from gpuctl.core.errors import NameInUse
from gpuctl.state.records import SCHEMA
from gpuctl.state.runs import RunFolder


def refuse_name_in_use(folder: RunFolder, in_use: Sequence[Resource], *, cloud: str, region: str) -> None:
    """Raises NameInUse where the name is a living run's; what this laptop left half-made under it may go on.

    `in_use` is what is tagged with it in that region. A run that this laptop launched elsewhere may live there, and its
    keys are in the folder that a new run of its name would get.
    """
    step = f"choose another --name, or remove them with `gpuctl down {folder.name}`"
    stored = folder.known_header()
    if stored is None and folder.exists() and not folder.progress().down:
        raise NameInUse(f"this laptop's record of a run called {folder.name} is damaged: it may still be up", step)
    if stored is not None and not folder.progress().down:
        if stored.schema > SCHEMA:
            raise NameInUse(f"the name {folder.name} belongs to a run that a newer gpuctl launched", step)
        record = folder.known()
        regions = {attempt.region for attempt in record.begun} if record else {stored.region}
        if stored.cloud != cloud or region not in regions:
            where = stored.region if stored.cloud == cloud else f"{stored.region} of the cloud {stored.cloud}"
            raise NameInUse(f"the name {folder.name} belongs to a run in {where}", step)
    seen = folder.progress()
    half_made = folder.exists() and folder.has_key() and (not folder.may_have_started() or seen.start_answered is False)
    if in_use and not half_made:
        counted = f"{len(in_use)} resource{'s' * (len(in_use) != 1)}"
        raise NameInUse(f"the name {folder.name} is in use: it tags {counted} in {region}", step)
