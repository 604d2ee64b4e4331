"""Which Python a job needs, and which an image has."""

from __future__ import annotations

import pytest

from gpuctl.core.errors import JobError
from gpuctl.core.python_version import allows, is_specifier, python_of_image, refuse_python

DLAMI = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251015"


@pytest.mark.parametrize(
    ("name", "description", "python"),
    [
        (DLAMI, "Supported EC2 instances: G4dn, G5", "3.10"),
        ("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20251015", "", "3.12"),
        (DLAMI, "Embedded: no GPU, no NVIDIA driver; Python 3.13.0", "3.13.0"),
        (DLAMI, "PyTorch 2.7; Python 3.12 in /opt/pytorch", "3.10"),
        ("Deep Learning Base AMI (Amazon Linux 2023)", "", None),
        ("my own", "", None),
    ],
)
def test_an_images_python_is_known_by_what_it_is_called(name: str, description: str, python: str | None) -> None:
    """AWS's and Canonical's names tell the release; an embedded image's description tells the version."""
    assert python_of_image(name, description) == python


def test_half_a_version_is_refused_only_where_no_whole_one_would_do() -> None:
    """Of Ubuntu 22.04 it is known that it has some 3.10, not which."""
    assert allows(">=3.10", "3.10") and allows(">=3.10.5", "3.10") and allows("~=3.10.2,!=3.10.4", "3.10")
    assert not allows(">=3.11", "3.10") and not allows("<3.10", "3.10") and not allows("==3.12.*", "3.10")
    assert allows(">=3.10.5", "3.10.12") and not allows(">=3.10.5", "3.10.4")
    assert allows(">=3.14", "3.15.0rc1")


def test_only_what_is_known_to_be_wrong_is_refused() -> None:
    """A job that says nothing and an image of which nothing is known are no reason to refuse."""
    for requires, python in ((None, "3.10"), (">=3.99", None), (">=3.10", "3.10")):
        refuse_python("x", requires, python, where="the image has")
    with pytest.raises(JobError, match=r"job x needs Python >=3\.11, but the image has 3\.10; if it also runs on"):
        refuse_python("x", ">=3.11", "3.10", where="the image has")


def test_specifiers() -> None:
    """What PEP 440 has, and nothing else."""
    assert all(map(is_specifier, (">=3.10", ">=3.10,<4", "~=3.11", "==3.12.*")))
    assert not any(map(is_specifier, ("3.10", "^3.10", ">=three", ">= 3.10 || <2")))
