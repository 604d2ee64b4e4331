"""SSH key pairs, made on the laptop: a host's own, pinned before its first byte, and the caller's."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True)
class KeyPair:
    """A key pair in OpenSSH's formats. `private` ends with a newline, `public` is one line without."""

    private: str = field(repr=False)
    public: str


def generate_key(comment: str) -> KeyPair:
    """A new ed25519 key pair; the comment names it in its public half."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    return KeyPair(private=private.rstrip("\n") + "\n", public=f"{public} {comment}")
