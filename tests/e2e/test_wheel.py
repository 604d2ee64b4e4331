"""The wheel, as somebody gets it who has no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(CHECKOUT))
    (built,) = out.glob("*.whl")
    return built


def run(*words: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program outside any checkout."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        words, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_wheel_adds_one_top_level_name(wheel: Path) -> None:
    """No `jobs`, no `provisioning`, no `tests` lands in a user's site-packages; both travel inside `gpuctl`."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gpuctl"}
    assert "gpuctl/_shipped/jobs/char_rnn/job.toml" in names
    assert "gpuctl/_shipped/provisioning/__main__.py" in names


def test_what_the_wheel_carries_trains(wheel: Path, tmp_path: Path) -> None:
    """No checkout, its dependencies from elsewhere: a packaged job trains, as the wheel has it."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    (site,) = venv.glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(venv / "bin/python")
    assert str(venv) in run(python, "-c", "import gpuctl; print(gpuctl.__file__)").stdout
    words = ("local", "from_scratch", "--outputs", str(tmp_path / "out"), "--", "--preset", "smoke", "--epochs", "2")
    run(python, "-c", "from gpuctl.cli.main import main; main()", *words, "--passes", "11")
    assert (tmp_path / "out/checkpoint.npz").exists()


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_the_wheel_works_without_a_checkout(wheel: Path, tmp_path: Path, environments: Path) -> None:
    """Alone it answers and refuses as it should; with [embedded] it runs a packaged job from end to end."""
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    gpuctl, pip = str(tmp_path / "venv/bin/gpuctl"), str(tmp_path / "venv/bin/pip")
    home = tmp_path / "g"
    (home / "cache").mkdir(parents=True)
    (home / "cache/environments").symlink_to(environments)
    run(pip, "install", "-q", str(wheel), GPUCTL_HOME=str(home))
    assert "gpuctl" in run(gpuctl, "--version", GPUCTL_HOME=str(home)).stdout
    assert "char_rnn" in run(gpuctl, "jobs", GPUCTL_HOME=str(home)).stdout
    refused = run(gpuctl, "launch", "char_rnn", "-y", code=5, GPUCTL_HOME=str(home))
    assert "credentials" in refused.stderr
    missing = run(gpuctl, "launch", "char_rnn", "-y", code=1, GPUCTL_HOME=str(home), GPUCTL_CLOUD="embedded")
    assert "pip install '.[embedded]'" in missing.stderr

    run(pip, "install", "-q", f"{wheel}[embedded]")
    embedded = {"GPUCTL_HOME": str(home), "GPUCTL_CLOUD": "embedded"}
    try:
        assert "char-rnn" in run(gpuctl, "launch", "char_rnn", "--dry-run", **embedded).stdout
        words = ("--pull", str(tmp_path / "home"), "--down", "--", "--preset", "smoke")
        run(gpuctl, "launch", "char_rnn", "-y", "--name", "from-wheel", *words, **embedded)
        assert list((tmp_path / "home").rglob("*.pt"))
        assert '"runs": []' in run(gpuctl, "ls", "--json", **embedded).stdout
    finally:
        run(gpuctl, "cloud", "stop", **embedded)
