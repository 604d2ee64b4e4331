"""What the embedded cloud's key proves: that a request is its owner's, and that an answer is the cloud's.

The key lies in `cloud.json`, which its owner alone can read, and is never sent: what travels are codes made with it
(HMAC, https://www.rfc-editor.org/rfc/rfc2104), and the signatures of AWS calls, whose secret access key it is.
"""

from __future__ import annotations

import hashlib
import hmac

ACCESS_KEY_ID = "embedded"
PROOF_HEADER = "X-Gpuctl-Proof"


def prove(key: str, *words: str) -> str:
    """A code that nobody without the key can make for these words; the first says what they are for."""
    return hmac.new(key.encode(), "\0".join(words).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def proves(key: str, found: object, *words: str) -> bool:
    """Whether what was found is the code for these words."""
    if not isinstance(found, str):
        return False
    return hmac.compare_digest(found.encode("utf-8", "surrogatepass"), prove(key, *words).encode())


def request_headers(key: str | None, method: str, url: str) -> dict[str, str]:
    """The headers of a request to the cloud's own paths; none where the cloud has no key."""
    if not key:
        return {}
    target = "/" + url.split("/", 3)[3]
    return {PROOF_HEADER: prove(key, *request_words(method, target))}


def request_words(method: str, target: str) -> tuple[str, ...]:
    """What a request proves: its method, and its path with its query."""
    return "request", method, target


def health_words(nonce: str, endpoint: str) -> tuple[str, ...]:
    """What the cloud proves to whoever has asked with a nonce of their own: nobody else can have it passed on."""
    return "health", nonce, endpoint


def host_words(instance_id: str) -> tuple[str, ...]:
    """What a host proves in the addresses that the cloud gave it."""
    return "host", instance_id


def answer_words(authorization: str, body: bytes) -> tuple[str, ...]:
    """What the cloud proves of an answer to an AWS call: that it answers the call with this Authorization header."""
    return "answer", authorization, hashlib.sha256(body).hexdigest()
