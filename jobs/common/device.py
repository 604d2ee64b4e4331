"""Where a job computes, how precisely, and how its randomness begins."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import time
from collections.abc import Callable

import numpy as np
import torch


def pick_device(name: str | None = None) -> torch.device:
    """The device called ``name`` (``cuda``, ``cuda:1``, ``mps``, ``cpu``), or the fastest kind that is here.

    Raises SystemExit with one line where there is no such device.
    """
    if name:
        try:
            torch.empty(0, device=name)
            return torch.device(name)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has a different one for each kind
            raise SystemExit(f"no device {name} here: {str(error).splitlines()[0]}") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Start Python's, NumPy's and torch's random numbers (every device's) from ``seed``."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def limit_threads(n: int | None) -> None:
    """Let torch use ``n`` processor threads; ``None`` or 0 leaves it to torch.

    Sums are cut into as many parts as there are threads, so a run is repeated bit for bit only with the same number.
    """
    if n:
        torch.set_num_threads(n)


def bfloat16_is_faster(device: torch.device, compute: Callable[[], object]) -> bool:
    """Whether ``compute`` takes clearly less time in bfloat16 than in float32 here: tried, in turns.

    What a device says of itself is no help: a T4 says that it supports bfloat16 and emulates it, a processor may take
    eighty times as long or refuse.
    """
    if device.type not in ("cpu", "cuda"):
        return False
    took = {False: math.inf, True: math.inf}
    for _ in range(3):
        for bfloat16 in took:
            took[bfloat16] = min(took[bfloat16], _seconds(device, compute, bfloat16=bfloat16))
        if took[True] > 2 * took[False]:  # so slow that once more would be felt
            break
    return took[True] < 0.8 * took[False]


def bfloat16_works(device: torch.device, compute: Callable[[], object]) -> bool:
    """Whether ``compute`` can be done in bfloat16 here, however long it takes."""
    return _seconds(device, compute, bfloat16=True) < math.inf


def _seconds(device: torch.device, compute: Callable[[], object], *, bfloat16: bool) -> float:
    """The less of two times; infinite where torch cannot do it."""
    took = math.inf
    try:
        for _ in range(2):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
                compute()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took = min(took, time.perf_counter() - began)
    except RuntimeError:  # "could not create a primitive descriptor"
        if not bfloat16:
            raise
    return took


@functools.cache
def _multiplies_faster_in_bfloat16(device: torch.device) -> bool:
    square = torch.ones((2048, 2048), device=device)
    return bfloat16_is_faster(device, lambda: square @ square)


def autocast_for(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Compute in bfloat16 where the GPU is faster so, else in float32."""
    if device.type == "cuda" and _multiplies_faster_in_bfloat16(device):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()
