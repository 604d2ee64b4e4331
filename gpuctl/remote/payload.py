"""The payload as bytes: the folder `provisioning/` as one zipapp, the same bytes for the same files."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = "import sys\n\nfrom provisioning.__main__ import main\n\nsys.exit(main())\n"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can tell."""


def build_payload(source: Path) -> bytes:
    """`host.pyz`: the package found in `source` as `provisioning`, and a `__main__.py` that runs it."""
    buffer = io.BytesIO(_SHEBANG)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        for path in sorted(source.rglob("*.py")):
            _add(archive, f"provisioning/{path.relative_to(source).as_posix()}", path.read_bytes())
    return buffer.getvalue()


def payload_hash(data: bytes) -> str:
    """The hex SHA-256 by which a payload on a host is told from another."""
    return hashlib.sha256(data).hexdigest()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=_DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)
