"""Where calls go, and as whom."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.aws.account import Account, owner_of
from gpuctl.core.errors import UsageError
from gpuctl.core.profile import Profile
from gpuctl.web import is_loopback


def bare(default_region: str | None = None) -> Profile:
    return Profile(
        name="aws", caller_address_url="https://example.invalid", image_parameters={}, default_region=default_region
    )


def test_the_region_is_what_was_said_first(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--region, AWS_REGION, AWS_DEFAULT_REGION, the configuration, the cloud's default, us-east-1: in this order."""
    assert (Account(bare()).region, Account(bare()).region_source) == ("us-east-1", "default")
    assert Account(bare("eu-north-1")).region == "eu-north-1"
    (own_world / ".aws").mkdir()
    (own_world / ".aws/config").write_text("[default]\nregion = eu-west-1\n")
    configured = Account(bare("eu-north-1"))
    assert (configured.region, configured.region_source) == ("eu-west-1", "~/.aws/config")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    assert (Account(bare()).region, Account(bare()).region_source) == ("us-west-1", "AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert (Account(bare()).region, Account(bare()).region_source) == ("us-west-2", "AWS_REGION")
    said = Account(bare(), "ap-south-1")
    assert (said.region, said.region_source) == ("ap-south-1", "--region")


def test_a_region_that_is_none_is_told_with_what_is_near_it(profile: Profile, cloud) -> None:
    """A slip of the finger is wrong usage, and AWS hears nothing of it."""
    with pytest.raises(UsageError, match=r"no AWS region 'us-esat-1' \(from --region\).*us-east-1") as error:
        Account(profile, "us-esat-1").client("ec2")
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match="for example us-east-1"):
        Account(profile, "???").client("ec2")
    assert cloud.calls() == []


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1", "eu-central-2"])
def test_regions_of_every_partition_are_regions(profile: Profile, region: str) -> None:
    """China and GovCloud are AWS too."""
    assert Account(profile, region).client("ec2").meta.region_name == region


def test_clients_are_made_once_and_say_who_they_are(account: Account) -> None:
    """One client a service, gpuctl in the user agent, few retries."""
    client = account.client("ec2")
    assert account.client("ec2") is client
    assert client.meta.config.user_agent_extra.startswith("gpuctl/")
    assert client.meta.config.retries["total_max_attempts"] <= 3


def test_a_proxy_does_not_stand_between_the_laptop_and_itself(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is for the internet, not for the cloud on this machine."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Account(profile).owner().endswith(":user/gpuctl")


@pytest.mark.parametrize(
    ("arn", "owner"),
    [
        ("arn:aws:iam::123456789012:user/alice", "123456789012:user/alice"),
        ("arn:aws:iam::123456789012:user/team/alice", "123456789012:user/team/alice"),
        ("arn:aws:iam::123456789012:root", "123456789012:root"),
        ("arn:aws:sts::123456789012:assumed-role/Admin/botocore-session-1764038400", "123456789012:role/Admin"),
        ("arn:aws-cn:sts::123456789012:assumed-role/Admin/x", "123456789012:role/Admin"),
        (
            "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Dev_0a1b2c/alice@example.com",
            "123456789012:role/AWSReservedSSO_Dev_0a1b2c/alice@example.com",
        ),
        ("arn:aws:sts::123456789012:federated-user/bob", "123456789012:federated-user/bob"),
    ],
)
def test_an_owner_stays_the_same_from_one_day_to_the_next(arn: str, owner: str) -> None:
    """Session names that programs make up are dropped; those that are a person's name are kept."""
    assert owner_of(arn) == owner


@given(st.from_regex(r"\Aarn:aws:sts::[0-9]{12}:(user|assumed-role)/[^:\x00-\x1f]{0,400}\Z"))
def test_an_owner_is_always_a_tags_value(arn: str) -> None:
    """At most 256 characters, of those that every AWS service takes in a tag."""
    owner = owner_of(arn)
    assert 0 < len(owner) <= 256
    assert all(c.isascii() and (c.isalnum() or c in "_ +-=.:/@") for c in owner)


def test_long_names_that_differ_at_their_end_stay_apart() -> None:
    """Cutting a name must not make one person's runs another's."""
    stem = "arn:aws:iam::123456789012:user/" + "x" * 300
    assert owner_of(stem + "a") != owner_of(stem + "b")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://[::1]:5000/x", True),
        ("http://localhost", True),
        ("https://checkip.amazonaws.com", False),
        ("http://127.0.0.1.example.com", False),
        (None, False),
    ],
)
def test_this_machine_is_told_from_others(url: str | None, expected: bool) -> None:
    """By address, not by how the text begins."""
    assert is_loopback(url) is expected


def test_importing_the_package_does_not_import_boto3() -> None:
    """`gpuctl --help` must not pay for it."""
    modules = ["access", "account", "errors", "fleet", "images", "instances", "inventory", "offers", "parallel"]
    code = "import sys\n" + "".join(f"import gpuctl.aws.{name}\n" for name in modules)
    code += "print(sorted({'boto3', 'botocore', 'urllib3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("_time", range(5))
def test_questions_from_many_threads_at_once_are_all_answered(profile: Profile, _time: int) -> None:
    """Whichever comes first, the region or a client: none waits for another that waits for it."""
    account = Account(profile)
    questions: list[Callable[[], object]] = [
        lambda: account.region,
        lambda: account.client("ec2"),
        account.owner,
        lambda: account.client("ssm"),
    ]
    begun = threading.Barrier(len(questions))

    def ask(question: Callable[[], object]) -> object:
        begun.wait()
        return question()

    pool = ThreadPoolExecutor(len(questions))
    futures = [pool.submit(ask, question) for question in questions]
    _, waiting = wait(futures, timeout=60)
    pool.shutdown(wait=not waiting)
    assert not waiting and all(future.result() for future in futures)
