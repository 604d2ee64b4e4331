"""What a host whose two processes were both killed leaves behind, and its removal: for a cloud that starts anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpuctl.embedded_cloud.host.environment import remove_run_folder, run_folders
from gpuctl.embedded_cloud.host.processes import end_all


def clear(disk: Path, mark: str) -> bool:
    """Ends what carries the mark, removes the host's run folders and its disk. False where something would not go."""
    ended = end_all(mark, root=None)
    for folder in run_folders(mark):
        remove_run_folder(folder)
    shutil.rmtree(disk, ignore_errors=True)
    return ended and not disk.exists()
