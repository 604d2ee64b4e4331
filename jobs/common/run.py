"""One training run: what it prints, what it keeps, how it stops and how it goes on.

In a script of your own::

    run = Run(outputs="outputs")
    state = run.resume()                                    # None, or what was saved last
    if state: run.restore(state, model=model, optimizer=optimizer)
    ...
    run.log(step=step, epoch=epoch, split="train", loss=loss)
    if run.stopping or step % 100 == 0:
        run.save("checkpoint.pt", run.capture(model=model, optimizer=optimizer, step=step))

Under gpuctl the metrics reach the laptop (``GPUCTL_METRICS``), ``gpuctl stop`` sets ``run.stopping``, and a run that is
started again goes on from its newest checkpoint (``GPUCTL_RESUME``). Without gpuctl nothing changes but where the
metrics lie.
"""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from jobs.common.base_run import BaseRun, State, Stateful

__all__ = ["Run", "State", "Stateful", "load"]


class Run(BaseRun):
    """A run whose checkpoints are torch's: tensors and plain values, in a `.pt`."""

    suffix = ".pt"

    def write_state(self, state: State, file: BinaryIO) -> None:
        """Write a checkpoint."""
        torch.save(state, file)

    def read_state(self, path: str | Path) -> State:
        """Read one, on to the processor."""
        return load(path)

    def rng(self) -> State:
        """The state of Python's, NumPy's and torch's random numbers."""
        return _rng_state()

    def set_rng(self, rng: State) -> None:
        """Put them back into it."""
        _set_rng(rng)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> State:
    """Read a checkpoint. Tensors and plain values only: a file that came from a host cannot run code here.

    Raises SystemExit with one line where it cannot be read, or holds more than that.
    """
    try:
        state: State = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise SystemExit(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise SystemExit(f"{path} is no checkpoint that can be read safely") from error
    return state


def _rng_state() -> State:
    """The state of every random number generator, in types that `load` accepts."""
    name, keys, *rest = np.random.get_state()
    rng: State = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state_all()
    return rng


def _set_rng(rng: State) -> None:
    version, keys, gauss = rng["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numbers, *rest = rng["numpy"]
    np.random.set_state((name, numbers.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(rng["torch"])
    if "cuda" in rng and torch.cuda.is_available() and len(rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(rng["cuda"])
