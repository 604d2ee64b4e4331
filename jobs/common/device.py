"""Where a job computes, how precisely, and how its randomness begins."""

from __future__ import annotations

import contextlib
import random

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


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself, so that it is faster than float32.

    A T4 or V100 says that it supports bfloat16 and emulates it, slower than float32. For processors torch tells only of
    Intel's and AMD's (AVX-512 BF16), and only from 2.4 on.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tell = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and tell is not None and bool(tell())


def autocast_for(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Compute in bfloat16 where the GPU does so natively, else in float32."""
    if device.type == "cuda" and bfloat16_is_native(device):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()
