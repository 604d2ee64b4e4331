"""Whether the torch that a run has got sees its host's GPU: asked before training starts, which would go on without."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Callable

from provisioning.protocol import PayloadError

Tell = Callable[[str], None]

PATIENCE_S = 300.0
"""A first import reads gigabytes from a disk that a new host fetches block by block."""
_NEVER = re.compile("driver|kernel image|capability|compiled", re.IGNORECASE)
"""What torch says of a GPU that it will not be able to use later either; memory in use, say, may be free by then."""
_ASK = """
import importlib.util, json, sys
if importlib.util.find_spec("torch") is None:
    sys.exit()
import torch
why = ""
try:
    torch.zeros(1, device="cuda")
except Exception as error:
    why = " ".join(str(error).split()) or type(error).__name__
print(json.dumps([torch.__version__, torch.version.cuda, why]))
"""


def check_torch(python: Path, variables: Mapping[str, str], tell: Tell, *, patience_s: float = PATIENCE_S) -> None:
    """Refuse a torch made for GPUs that cannot use this host's, and tell of one made for CPUs alone: PayloadError.

    The latter may be meant, beside another library that computes on the GPU. `variables` are the command's own: who
    sets CUDA_VISIBLE_DEVICES has decided already. No torch, or one that is slow to say, is no reason against a run.
    """
    if "CUDA_VISIBLE_DEVICES" in variables:
        return
    try:
        asked = subprocess.run(
            [str(python), "-I", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **variables},
            timeout=patience_s,
            check=False,
        )
        version, cuda, why = json.loads(asked.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError, TypeError):
        return
    if not isinstance(version, str) or not isinstance(why, str):
        return
    if cuda is None:
        tell(f"torch {version} is built for CPUs only and will not use the GPU: require a CUDA build")
    elif why and not _NEVER.search(why):
        tell(f"torch {version} could not use the GPU just now: {why[:200]}")
    elif why:
        raise PayloadError(
            f"torch {version} cannot use this host's GPU: {why[:200]}",
            f"launch again for another host, or require a torch for an older CUDA than {cuda}",
        )
