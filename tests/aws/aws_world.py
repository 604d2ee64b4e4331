"""What the tests of AWS agree on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from uuid import uuid4

from gpuctl.aws.access import allow_ssh_from, claim_group
from gpuctl.aws.account import Account
from gpuctl.core.tags import RunTags

LEASE_ENDS = datetime(2099, 11, 25, 2, 30, tzinfo=timezone.utc)
CALLER = "203.0.113.7/32"


def open_access(
    account: Account,
    tags: RunTags,
    cidr: str,
    *,
    vpc: str,
    claim: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The id of the run's security group, made now: SSH from `cidr` and nothing else. See `claim_group`.

    Each call is a launch of its own unless it is given a `claim`.
    """
    group_id = claim_group(account, tags, vpc=vpc, claim=claim or uuid4().hex, sleep=sleep)
    allow_ssh_from(account, group_id, cidr, sleep=sleep)
    return group_id
