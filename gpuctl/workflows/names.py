"""Which names a new run may have."""

from __future__ import annotations

from collections.abc import Sequence

from gpuctl.aws.inventory import Resource
from gpuctl.core.errors import NameInUse
from gpuctl.state.runs import RunFolder


def refuse_name_in_use(folder: RunFolder, in_use: Sequence[Resource], *, region: str) -> None:
    """Raises NameInUse where the name is a living run's; what this laptop left half-made under it may go on."""
    seen = folder.progress()
    half_made = folder.exists() and folder.has_key() and (not folder.may_have_started() or seen.start_answered is False)
    if in_use and not half_made:
        raise NameInUse(
            f"the name {folder.name} is in use: {len(in_use)} things in {region} are tagged with it",
            f"choose another --name, or remove them with `gpuctl down {folder.name}`",
        )
