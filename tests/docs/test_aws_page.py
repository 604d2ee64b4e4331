"""The policy in gpuctl/aws, and in docs/aws.md, is what gpuctl/aws calls: no action more, none less."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from doc_pages import CHECKOUT, fences

import gpuctl.aws
from gpuctl.aws.account import Account
from gpuctl.workflows.clouds import EmbeddedCloud, embedded_profile

IMPLIED = {
    "ec2:RunInstances": "CreateFleet starts instances in its caller's name",
    "ec2:CreateTags": "asked for where tags come with what is made",
    "iam:CreateServiceLinkedRole": "an account's first spot instance needs AWSServiceRoleForEC2Spot",
}
"""What AWS asks for, though gpuctl makes no such call."""


def policy() -> dict[str, Any]:
    """The policy that comes with gpuctl."""
    document: dict[str, Any] = json.loads((Path(gpuctl.aws.__path__[0]) / "policy.json").read_text())
    return document


def listed() -> list[str]:
    """The policy's actions, in its order."""
    actions: list[str] = []
    for statement in policy()["Statement"]:
        assert statement["Effect"] == "Allow"
        action = statement["Action"]
        actions += [action] if isinstance(action, str) else action
    return actions


def operations() -> dict[str, str]:
    """Every operation of the services that gpuctl has clients for, as IAM names it, by boto3's method."""
    account = Account(embedded_profile(EmbeddedCloud("http://127.0.0.1:9", pid=0)), "us-east-1")
    found: dict[str, str] = {}
    clients = {name: account.client(name) for name in ("ec2", "ssm", "sts")}
    clients["pricing"] = account.client("pricing", region="us-east-1")
    for service, client in clients.items():
        methods = client.meta.method_to_api_mapping
        found |= {method: f"{service}:{operation}" for method, operation in methods.items()}
    return found


def called() -> set[str]:
    """The actions that the code of gpuctl/aws names: methods of clients, and paginators by name."""
    known, found = operations(), set()
    for file in Path(gpuctl.aws.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "attr", None) or getattr(node, "value", None)
            if isinstance(name, str) and name in known:
                found.add(known[name])
    return found


def test_the_page_shows_the_policy_that_comes_with_gpuctl() -> None:
    """It is one text."""
    (text,) = fences(CHECKOUT / "docs/aws.md", "json")
    assert json.loads(text) == policy()


def test_the_policy_is_what_the_code_calls() -> None:
    """Each call has its permission, and no permission is without a call or a reason."""
    assert set(listed()) == called() | set(IMPLIED)
    assert len(listed()) == len(set(listed()))


def test_only_what_is_tagged_can_be_removed() -> None:
    """Whatever deletes, terminates, starts or changes rules is allowed for things with a run's tag alone."""
    for statement in policy()["Statement"]:
        actions = {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
        harmful = {
            a for a in actions if a.split(":")[1].startswith(("Delete", "Terminate", "Start", "Authorize", "Revoke"))
        }
        if harmful:
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/gpuctl:run": "false"}}
            assert harmful == actions


def test_tags_are_allowed_with_exactly_what_is_made() -> None:
    """Tagging is bound to the calls that make things: each of them that the policy allows, and no other."""
    (tagging,) = (s for s in policy()["Statement"] if s["Action"] == "ec2:CreateTags")
    made = {a.removeprefix("ec2:") for a in listed() if a.startswith(("ec2:Create", "ec2:Run"))} - {"CreateTags"}
    assert set(tagging["Condition"]["StringEquals"]["ec2:CreateAction"]) == made
