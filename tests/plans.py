"""Plans for tests: one of everything, and what is said differs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from gpuctl.core.lease import Lease
from gpuctl.core.offers import Market
from gpuctl.core.plan import Access, Attempt, Image, Plan, Pool, Upload, Workload

SUBNETS = {"us-east-1a": "subnet-0aaaaaaaaaaaaaaaa", "us-east-1b": "subnet-0bbbbbbbbbbbbbbbb"}
IMAGE = Image("ami-0123456789abcdef0", "Deep Learning", "x86_64", "ubuntu", "/dev/sda1", 75)


def a_pool(type_: str = "g6.xlarge", zone: str = "us-east-1a", price: str = "0.3012", gpus: int = 1) -> Pool:
    return Pool(type_, "L4", gpus, zone, SUBNETS[zone], Decimal(price))


def an_attempt(*pools: Pool, market: Market = "spot", **changes: Any) -> Attempt:
    some = pools or (a_pool(), a_pool("g5.xlarge", "us-east-1b"), a_pool("g6.xlarge", "us-east-1b"))
    return replace(Attempt(1, "us-east-1", market, IMAGE, "vpc-0123456789abcdef0", some), **changes)


def a_plan(*attempts: Attempt, **changes: Any) -> Plan:
    plan = Plan(
        run="char-rnn-k3f9",
        job="char_rnn",
        cloud="aws",
        owner="123456789012:user/alice",
        region_source="default",
        workload=Workload(
            command=("python", "train.py"),
            requirements=("torch>=2.4",),
            uploads=(Upload("/home/ada/project", "."),),
            environment_names=("WANDB_MODE",),
            checkpoints=("*.pt",),
        ),
        attempts=attempts or (an_attempt(),),
        access=Access("203.0.113.7/32"),
        lease=Lease(datetime(2026, 11, 25, 2, 30, tzinfo=timezone.utc)),
    )
    return replace(plan, **changes)
