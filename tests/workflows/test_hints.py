"""What a person is told to type after a training that failed; the log is the host's, and anything may be in it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.aws.account import Account
from gpuctl.core.plan import Upload
from gpuctl.core.profile import Profile
from gpuctl.state.records import RunRecord
from gpuctl.state.runs import run_folder
from gpuctl.workflows.hints import hint_after_failure, missing_module
from gpuctl.workflows.hosts import RunHandle
from tests.plans import a_plan

TRACEBACK = b'Traceback (most recent call last):\n  File "train.py", line 1\nModuleNotFoundError: No module named '


@pytest.mark.parametrize(
    ("log", "hint"),
    [
        (TRACEBACK + b"'torch'\n", "if torch is a package, launch with `--requirement torch`"),
        (TRACEBACK + b"'sklearn.svm'; 'sklearn' is not a package\n", "--requirement scikit-learn`"),
        (b"/home/u/gpuctl/venv/bin/python: No module named accelerate.commands\n", "--requirement accelerate`"),
        (b"[rank0]: ModuleNotFoundError: No module named 'wandb'\r\nE1128 torch.distributed: failed\n", "wandb`"),
        (TRACEBACK + b"'models'\n", "models is in the project: `--env PYTHONPATH=.`"),
        (TRACEBACK + b"'losses'\n", "losses is in the project: `--env PYTHONPATH=src`"),
        (TRACEBACK + b"'layers'\n", "layers is in the project: `--env PYTHONPATH='my code'`"),
        (TRACEBACK + b"'hidden'\n", "--requirement hidden`"),
        (TRACEBACK + b"'$(reboot)'\n", None),
        (TRACEBACK + b"'\x1b[2Jx'\n", None),
        (TRACEBACK + b"'-r'\n", None),
        (TRACEBACK + b"'" + b"x" * 70 + b"'\n", None),
        (b"No module named 'torch' in the docs\n", None),
        (b"FileExistsError: [Errno 17] File exists: 'outputs'\n", "exist_ok=True"),
        (b"FileExistsError: [Errno 17] File exists: '/home/ubuntu/gpuctl/work/outputs/'\r\n", "exist_ok=True"),
        (b"FileExistsError: [Errno 17] File exists: 'outputs/model.pt'\n", None),
        (b"", None),
    ],
)
def test_a_missing_module_is_told_with_what_to_type(tmp_path: Path, log: bytes, hint: str | None) -> None:
    """As far as it is a plain name, and of a module of the project's own that it is one."""
    for name in ("models/a.py", "src/losses.py", "my code/layers/__init__.py", ".venv/hidden/__init__.py"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True)
        path.touch()
    run = RunHandle("r", cast(Profile, None), cast(Account, None), run_folder(tmp_path / "runs", "r"))
    plan = a_plan(run="r")
    workload = plan.workload.__class__(**{**vars(plan.workload), "uploads": (Upload(f"{tmp_path}/project", "."),)})
    run.folder.write(RunRecord(a_plan(run="r", workload=workload)))
    run.kept.log.parent.mkdir(parents=True)
    run.kept.log.write_bytes(b"a line before\n" * 1000 + log)
    told = hint_after_failure(run)
    assert (told is None) == (hint is None) and (hint or "") in (told or "")


def test_a_run_of_which_nothing_is_here_has_no_hint(tmp_path: Path) -> None:
    """Its log may never have come."""
    assert (
        hint_after_failure(RunHandle("r", cast(Profile, None), cast(Account, None), run_folder(tmp_path, "r"))) is None
    )


@given(st.binary().map(lambda data: b"ModuleNotFoundError: No module named '" + data))
def test_only_a_plain_name_is_ever_shown(end: bytes) -> None:
    """Whatever a host writes into its log."""
    module = missing_module(end)
    assert module is None or (module.isascii() and module.isidentifier())
