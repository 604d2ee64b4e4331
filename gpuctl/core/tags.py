"""The tags that make an AWS account gpuctl's database: every resource carries them from the call that creates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

SCHEMA = "1"

RUN = "gpuctl:run"
JOB = "gpuctl:job"
OWNER = "gpuctl:owner"
LEASE_ENDS = "gpuctl:lease-ends"
SCHEMA_VERSION = "gpuctl:schema"
CLAIM = "gpuctl:claim"
"""On a security group alone: a word of the very launch that made it, by which it knows it again."""


@dataclass(frozen=True)
class RunTags:
    """What everything that belongs to one run is tagged with."""

    run: str
    job: str
    owner: str
    lease_ends: datetime

    def as_dict(self) -> dict[str, str]:
        """The tags, `Name` included, so that the AWS console shows the run too."""
        return {
            "Name": f"gpuctl {self.run}",
            RUN: self.run,
            JOB: self.job,
            OWNER: self.owner,
            LEASE_ENDS: iso(self.lease_ends),
            SCHEMA_VERSION: SCHEMA,
        }

    @classmethod
    def from_dict(cls, tags: Mapping[str, str]) -> RunTags | None:
        """The tags of a resource, None where it is not gpuctl's. A missing or unreadable lease reads as ended."""
        if RUN not in tags:
            return None
        try:
            ends = parse_iso(tags.get(LEASE_ENDS, ""))
        except ValueError:
            ends = datetime.fromtimestamp(0, timezone.utc)
        return cls(run=tags[RUN], job=tags.get(JOB, ""), owner=tags.get(OWNER, ""), lease_ends=ends)


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second: `2026-11-25T02:30:00Z`."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_iso(text: str) -> datetime:
    """The inverse of `iso`. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
