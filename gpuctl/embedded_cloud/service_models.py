"""AWS's descriptions of its services, as botocore ships them, in this process parsed once each.

moto opens a new session whenever it looks something up, and each would parse EC2's megabytes again: that was more than
half of a cloud's start.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from botocore.loaders import JSONFileLoader, Loader

_load_file = cache(JSONFileLoader().load_file)


class _ParsedOnce(JSONFileLoader):
    def load_file(self, file_path: str) -> Any:
        return _load_file(file_path)


def install() -> None:
    """From here on every botocore session of this process shares what was parsed. Call it before moto is imported."""
    Loader.FILE_LOADER_CLASS = _ParsedOnce
