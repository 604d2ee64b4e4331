"""What an embedded image brings into its hosts' environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpuctl.embedded_cloud import environment, pythons


def image(tmp_path: Path, **environ: str) -> dict[str, str]:
    own = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environ}
    python = pythons.ask(sys.executable)
    return environment.image_environment(own, python=python, cache=tmp_path / "cache", tools=tmp_path / "bin")


def test_pip_is_set_as_on_the_machine(tmp_path: Path) -> None:
    """Every PIP_ variable, the certificates and the proxies come along; credentials of anything else do not."""
    kept = {"PIP_INDEX_URL": "https://index.example", "SSL_CERT_FILE": "/c.pem", "https_proxy": "http://proxy.example"}
    found = image(tmp_path, AWS_SECRET_ACCESS_KEY="s", HF_TOKEN="t", **kept)
    assert {name: found.get(name) for name in kept} == kept
    assert set(found) == {*kept, "LANG", "PATH", "GPUCTL_ENVIRONMENTS"}
    assert found["GPUCTL_ENVIRONMENTS"] == str(tmp_path / "cache" / "environments")


@pytest.mark.parametrize("place", [".config/pip/pip.conf", ".pip/pip.conf"])
def test_the_users_own_pip_conf_is_found_from_another_home(tmp_path: Path, place: str) -> None:
    """A host's HOME is not the user's: PIP_CONFIG_FILE says where the settings are."""
    conf = tmp_path / place
    conf.parent.mkdir(parents=True)
    conf.write_text("[global]\nindex-url = https://index.example\n")
    found = image(tmp_path)
    assert found["PIP_CONFIG_FILE"] == str(conf)
    assert "PIP_EXTRA_INDEX_URL" not in found


def test_a_pip_conf_that_is_named_wins(tmp_path: Path) -> None:
    """What the user's own environment names is what hosts use."""
    conf = tmp_path / ".config/pip/pip.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("")
    assert image(tmp_path, PIP_CONFIG_FILE="/elsewhere")["PIP_CONFIG_FILE"] == "/elsewhere"


def test_python3_is_one_that_makes_virtualenvs(tmp_path: Path) -> None:
    """`python3` on a host is the interpreter below the cloud's, and a virtualenv of it names the real one."""
    path = image(tmp_path)["PATH"]
    assert path.split(":")[0] == str(tmp_path / "bin")
    subprocess.run(
        ["/bin/sh", "-c", f"python3 -m venv --without-pip {tmp_path}/made"], env={"PATH": path}, check=True, timeout=60
    )
    assert str(tmp_path / "bin") not in (tmp_path / "made/pyvenv.cfg").read_text()
