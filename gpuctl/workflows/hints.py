"""What to do about a training that failed, as far as the end of its log tells. The log is the host's: anything."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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
        return "`outputs` is created before the command starts: use `os.makedirs(..., exist_ok=True)`"
    module = next(filter(None, map(missing_module, ends)), None)
    if module is None:
        return None
    folder = _folder_in_project(run, module)
    if folder is not None:
        return f"{module} is in the project: `--env PYTHONPATH={shlex.quote(folder)}` lets any script import it"
    return f"if {module} is a package, launch with `--requirement {_CALLED.get(module, module)}`"


def missing_module(end: bytes) -> str | None:
    """The module that Python did not find, by the last such line; only a plain name, which is safe to show."""
    found = _MISSING.findall(end)
    return found[-1].decode("ascii") if found else None


def _folder_in_project(run: RunHandle, module: str) -> str | None:
    """The project's folder, or one in it, that holds the module; `.` is the project's own."""
    record = run.folder.known()
    for top in (Path(one.source) for one in record.plan.workload.uploads if one.name == ".") if record else ():
        for pattern in (f"{module}.py", module, f"[!.]*/{module}.py", f"[!.]*/{module}/__init__.py"):
            for found in top.glob(pattern):
                holder = found.parent.parent if found.name == "__init__.py" else found.parent
                return str(holder.relative_to(top))
    return None
