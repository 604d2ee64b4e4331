"""Answers that are none: a proxy's page, a sign-in form, nothing, half an answer.

botocore raises ResponseParserError for what is no XML, and does not try again; a page that happens to be well-formed
XML it reads as an answer in which nothing is there, which would say of a host that it is gone.
"""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from gpuctl.core.cloud_key import PROOF_HEADER, answer_words, proves
from gpuctl.core.errors import CloudGone

if TYPE_CHECKING:
    from boto3.session import Session

ATTEMPTS = 3
PAUSE_S = 0.3
_KEY_REFUSED = 403

_ROOT = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<(?:\w+:)?(\w+)")


class NotAnAnswer(Exception):
    """What came back is not what AWS answers to the operation."""


def expect_answers(session: Session, *, key: str | None = None) -> None:
    """Have every client of the session look whether an answer is one, and ask again a few times where it is not.

    That is right for each operation that gpuctl calls: what creates carries a token or a name of its own, and what is
    set or removed twice is set or removed. With a `key`, an answer is one that its cloud has proven to be its own;
    where another cloud answers in its place, CloudGone is raised at once.
    """
    if key:
        proofs = _Proofs(key)
        session.events.register("before-send", proofs.note)
        session.events.register("before-parse", proofs.require)
    session.events.register("before-parse", _require_answer)
    session.events.register("creating-client-class", _add_patience)


class _Proofs:
    """Whether an answer is the cloud's own, to the call that was sent. botocore sends and parses in one thread."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._sent = threading.local()

    def note(self, request: Any, **_: Any) -> None:
        """A call is about to be sent."""
        sent = request.headers.get("Authorization", "")
        self._sent.authorization = sent.decode() if isinstance(sent, bytes) else sent

    def require(self, operation_model: Any, response_dict: Any, **_: Any) -> None:
        """Raises NotAnAnswer where its answer is nobody's, CloudGone where it is another cloud's."""
        found, status = response_dict["headers"].get(PROOF_HEADER), response_dict["status_code"]
        words = answer_words(self._sent.authorization, response_dict["body"])
        if status >= 500 or proves(self._key, found, *words):
            return
        if found or status == _KEY_REFUSED:
            raise CloudGone(
                f"{operation_model.name} was answered by a different embedded cloud: the one that was asked is gone, "
                "and its hosts with it",
                "`gpuctl cloud status` shows which one is running now",
            )
        raise NotAnAnswer(f"no answer to {operation_model.name}")


def _require_answer(operation_model: Any, response_dict: Any, **_: Any) -> None:
    if response_dict["status_code"] >= 300:
        return
    body, protocol = response_dict["body"], operation_model.service_model.metadata.get("protocol")
    if protocol in ("ec2", "query"):
        root = _ROOT.match(body)
        if root is None or root[1].decode() != f"{operation_model.name}Response":
            raise NotAnAnswer(f"no answer to {operation_model.name}")
    elif protocol == "json":
        try:
            answered = isinstance(json.loads(body), dict)
        except ValueError:
            answered = False
        if not answered:
            raise NotAnAnswer(f"no answer to {operation_model.name}")


def _add_patience(base_classes: list[type], **_: Any) -> None:
    from botocore.parsers import ResponseParserError

    class Patient(*base_classes):  # type: ignore[misc]  # botocore's own way to extend a client (boto3's extensibility guide)
        def _make_api_call(self, *words: Any) -> Any:
            for _attempt in range(ATTEMPTS - 1):
                try:
                    return super()._make_api_call(*words)
                except (ResponseParserError, NotAnAnswer):
                    time.sleep(PAUSE_S)
            return super()._make_api_call(*words)

    base_classes[:] = [Patient]
