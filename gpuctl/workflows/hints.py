"""What to do about a training that failed, as far as the end of its log tells. The log is the host's: anything."""

from __future__ import annotations

import re
from pathlib import Path

from gpuctl.core.errors import GpuctlError
from gpuctl.state.copies import LocalCopy
from gpuctl.workflows.hosts import RunHandle, hosts_known

_END_BYTES = 8192
_MISSING = re.compile(
    rb"^(?:\[\w{1,20}\]: )?(?:ModuleNotFoundError|\S*python[0-9.]*): No module named '?([A-Za-z_]\w{0,63})\b",
    re.M | re.A,
)
_THERE = re.compile(rb"^(?:\[\w{1,20}\]: )?FileExistsError: .*'(?:[^'\n]*/)?outputs/?'$", re.M)
_CALLED = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages whose modules have another name."""


def hint_after_failure(run: RunHandle) -> str | None:
    """What to change where a module was missing or `outputs` was there; None where the kept logs end otherwise."""
    ends = [LocalCopy(host.kept.log).end(_END_BYTES) for host in hosts_known(run)]
    if any(_THERE.search(end.replace(b"\r\n", b"\n")) for end in ends):
        return "`outputs` is made before the command starts: make it with `os.makedirs(..., exist_ok=True)`"
    module = next(filter(None, map(missing_module, ends)), None)
    if module is None:
        return None
    if _lies_in_project(run, module):
        return f"{module} lies in the project: `--env PYTHONPATH=.` lets scripts in its folders import it"
    return f"if {module} is a package, launch with `--requirement {_CALLED.get(module, module)}`"


def missing_module(end: bytes) -> str | None:
    """The module that Python did not find, by the last such line; only a plain name, which is safe to show."""
    found = _MISSING.findall(end)
    return found[-1].decode("ascii") if found else None


def _lies_in_project(run: RunHandle, module: str) -> bool:
    try:
        uploads = run.folder.read().plan.workload.uploads
    except GpuctlError:
        return False
    tops = [Path(one.source) for one in uploads if one.name == "."]
    try:
        return any((top / module).is_dir() or (top / f"{module}.py").is_file() for top in tops)
    except OSError:
        return False
