"""What the tests of AWS agree on."""

from __future__ import annotations

from datetime import datetime, timezone

LEASE_ENDS = datetime(2099, 11, 25, 2, 30, tzinfo=timezone.utc)
CALLER = "203.0.113.7/32"
