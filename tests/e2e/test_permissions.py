"""What a whole run asks of AWS is what docs/aws.md says to allow."""

from __future__ import annotations

import json
import re
from pathlib import Path

from e2e_tool import Gpuctl, wait_for

PAGE = Path(__file__).resolve().parents[2] / "docs/aws.md"


def test_a_whole_run_needs_no_permission_that_the_policy_lacks(gpuctl: Gpuctl, project: Path) -> None:
    """Offers, launch, list, follow, home, down, as the embedded cloud counts their calls: each is in the policy."""
    gpuctl("offers", "--on-demand", "only")
    gpuctl(
        "launch", str(project), "--name", "toy", "-d", "-y", "--on-demand", "fallback", "--", "python", "train.py", "5"
    )
    wait_for(lambda: gpuctl.json("status", "toy")["state"] == "succeeded", what="the end of the training")
    gpuctl("ls")
    gpuctl("pull", "toy", "home")
    gpuctl("down", "toy", "-y")
    made = {f"{call['service']}:{call['operation']}" for call in gpuctl.calls()}
    (policy,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    allowed = {
        action
        for s in json.loads(policy)["Statement"]
        for action in (s["Action"] if isinstance(s["Action"], list) else [s["Action"]])
    }
    assert made <= allowed
    assert {"ec2:CreateFleet", "ec2:TerminateInstances", "pricing:GetProducts", "sts:GetCallerIdentity"} <= made
