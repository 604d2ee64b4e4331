"""A training run without torch: its checkpoints are NumPy's own files, in which nothing can run code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jobs.common.base_run import BaseRun, State, Stateful

__all__ = ["NumpyRun", "State", "Stateful"]

_ARRAY = "__array__"


class NumpyRun(BaseRun):
    """A run whose checkpoints are an `.npz`: every array of the state, and the rest, which names them, as JSON."""

    suffix = ".npz"

    def write_state(self, state: State, file: BinaryIO) -> None:
        """Write a checkpoint: dictionaries with text for keys, lists, arrays, numbers, text, None."""
        arrays: dict[str, Any] = {}
        rest = json.dumps(_without_arrays(state, arrays))
        np.savez(file, state=np.array(rest), **arrays)

    def read_state(self, path: str | Path) -> State:
        """Read one. Raises SystemExit with one line where it cannot be read, or holds more than that."""
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                state: State = _with_arrays(json.loads(str(file["state"])), file)
        except OSError as error:
            raise SystemExit(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise SystemExit(f"{path} is no checkpoint that can be read safely") from error
        return state


def _without_arrays(value: Any, arrays: dict[str, Any]) -> Any:
    """The same value with the name of each array instead of it; the arrays go into `arrays`."""
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, dict):
        return {key: _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, arrays) for item in value]
    return value


def _with_arrays(value: Any, arrays: Any) -> Any:
    """The inverse of `_without_arrays`."""
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return [_with_arrays(item, arrays) for item in value] if isinstance(value, list) else value
