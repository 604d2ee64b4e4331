"""`gpuctl ls` beside a program of ten lines that makes the same AWS calls with boto3 and prints nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.bench_tools import Cloud, Part, Tool, medians, milliseconds, run

RUNS = 3

BARE = """
import boto3
from datetime import datetime, timezone
ec2 = boto3.client("ec2")
living = ["pending", "running", "shutting-down", "stopping", "stopped"]
filters = [{"Name": "tag-key", "Values": ["gpuctl:run"]}, {"Name": "instance-state-name", "Values": living}]
pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
found = [one for page in pages for held in page["Reservations"] for one in held["Instances"]]
types = sorted({one["InstanceType"] for one in found})
now = datetime.now(timezone.utc)
history = ec2.get_paginator("describe_spot_price_history")
rows = list(history.paginate(InstanceTypes=types, ProductDescriptions=["Linux/UNIX"], StartTime=now))
assert found and rows
"""


def measure(cloud: Cloud, tool: Tool, project: Path, rounds: int) -> Part:
    """With some runs up, whole processes, interleaved."""
    words = ["-d", "-y", "--", "python", "train.py", "0"]
    for number in range(RUNS):
        run([tool.gpuctl, "launch", str(project), "--name", f"ls-{number}", *words], cloud.environment)
    ours, bare = [tool.gpuctl, "ls", "--json"], [tool.python, "-c", BARE]
    made = {}
    for name, command in (("ours", ours), ("bare", bare)):
        cloud.forget_calls()
        run(command, cloud.environment)
        made[name] = Counter(cloud.calls())
    if made["ours"] != made["bare"]:
        raise SystemExit(f"`gpuctl ls` made other calls than the bare client: {made}")
    took = medians(
        rounds,
        {
            "`gpuctl ls --json`": lambda: run(ours, cloud.environment),
            "bare boto3": lambda: run(bare, cloud.environment),
        },
    )
    calls = ", ".join(f"{count} × {name}" for name, count in sorted(made["ours"].items()))
    lines = ["| whole process | median | ratio |", "| --- | --- | --- |"]
    lines += [f"| {name} | {milliseconds(s)} | {s / took['bare boto3']:.2f}× |" for name, s in took.items()]
    lines += [
        "",
        f"{RUNS} runs up, {rounds} rounds, interleaved. Both make the same calls, as the cloud counted them: {calls}.",
    ]
    run([tool.gpuctl, "down", "--all", "-y", "--discard"], cloud.environment)
    return Part("Listing runs", lines)
