"""Answers in pages, as EC2 gives them: moto gives most in one piece and passes over tokens."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from typing import Any

from moto.ec2.exceptions import EC2ClientError

from gpuctl.embedded_cloud import operations


def page(operation: str, answer: Mapping[str, Any], *, token: str | None, most: int | None) -> dict[str, Any]:
    """The part of a whole answer that `token` stands for, and the token of what follows. Raises EC2ClientError."""
    key = str(operations.paged(operation))
    whole = list(answer[key])
    begin = _begin(operation, token) if token else 0
    end = begin + min(most or operations.page_size(operation), len(whole))
    return {**answer, key: whole[begin:end], "NextToken": _token(operation, end) if end < len(whole) else None}


def _token(operation: str, begin: int) -> str:
    return base64.urlsafe_b64encode(f"{operation} {begin}".encode()).decode()


def _begin(operation: str, token: str) -> int:
    with contextlib.suppress(ValueError):
        name, _, begin = base64.urlsafe_b64decode(token).decode().partition(" ")
        if name == operation:
            return int(begin)
    raise EC2ClientError(
        "InvalidParameterValue", f"Value ( {token} ) for parameter NextToken is invalid. The token is invalid."
    )
