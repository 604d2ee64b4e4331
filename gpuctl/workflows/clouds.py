"""Clouds by name. The embedded one is started when first needed, as a process of its own, and reached over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from secrets import token_hex
from typing import Any

from gpuctl import web
from gpuctl.core.cloud_key import ACCESS_KEY_ID, health_words, proves
from gpuctl.core.codec import loads, parse
from gpuctl.core.errors import GpuctlError, UsageError
from gpuctl.core.interpreter import module_command
from gpuctl.core.profile import Profile
from gpuctl.locks import is_held
from gpuctl.state.paths import Paths
from gpuctl.state.runs import all_run_folders

IMAGE_PARAMETERS = {
    architecture: f"/aws/service/deeplearning/ami/{architecture}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
    for architecture in ("x86_64", "arm64")
}
"""AWS's Deep Learning Base AMI: Ubuntu with NVIDIA's driver, by SSM's public parameters."""

CHECK_IP = "https://checkip.amazonaws.com"

OPEN_TO_ALL = "an older gpuctl started it, and any user of this machine can use it"
_SECRET_OF_OLD = "embedded"  # noqa: S105 - no secret: what an embedded cloud without a key takes
_NOT_AS_ASKED = 2
_HEALTH_LIMIT = 65536
_HEALTH_TIMEOUT_S = 5


def open_cloud(name: str, paths: Paths, *, on_lost: Callable[[str], None] | None = None) -> Profile:
    """The profile of a cloud; raises UsageError for a name that is none.

    `on_lost` hears of what was lost with an embedded cloud that had died, in words.
    """
    if name == "aws":
        return Profile(name="aws", caller_address_url=CHECK_IP, image_parameters=IMAGE_PARAMETERS)
    if name == "embedded":
        cloud = start_embedded(paths)
        if cloud.lost and on_lost is not None:
            on_lost(lost_in_words(cloud.lost, paths))
        return embedded_profile(cloud)
    raise UsageError(f"there is no cloud called {name!r}", "choose aws or embedded (--cloud, or GPUCTL_CLOUD)")


@dataclass(frozen=True)
class EmbeddedCloud:
    """An embedded cloud, as its own file tells of it.

    `key` is empty where an older gpuctl started it. `lost`: the instances that were lost with one that died before it.
    """

    endpoint: str
    pid: int
    key: str = field(default="", repr=False)
    lost: tuple[str, ...] = ()

    @property
    def secret_access_key(self) -> str:
        """What AWS calls are signed with."""
        return self.key or _SECRET_OF_OLD


def embedded_profile(cloud: EmbeddedCloud) -> Profile:
    """An embedded cloud as a profile."""
    return Profile(
        name="embedded",
        caller_address_url=f"{cloud.endpoint}/gpuctl/caller-address",
        image_parameters=IMAGE_PARAMETERS,
        endpoint_url=cloud.endpoint,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=cloud.secret_access_key,
        default_region="us-east-1",
        host_directory_url=f"{cloud.endpoint}/gpuctl/hosts",
        cloud_key=cloud.key or None,
    )


def embedded_environment(cloud: EmbeddedCloud) -> dict[str, str]:
    """The variables with which any AWS client reaches the embedded cloud; botocore knows AWS_DEFAULT_REGION alone."""
    return {
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": cloud.secret_access_key,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def start_embedded(paths: Paths, *, port: int | None = None, pythons: Sequence[str] = ()) -> EmbeddedCloud:
    """Make sure the embedded cloud runs.

    `pythons`, paths or names on PATH, are what hosts have as `python3`: the first on every image, each other on one
    of its own. Raises UsageError where one is not to be had, or a cloud with others runs already.
    """
    running = None if port or pythons else embedded_if_running(paths)
    if running:
        return running
    words = ["--port", str(port)] if port else []
    started = _cloud_command(paths, "start", *words, *(f"--python={python}" for python in pythons))
    cloud = _recorded(paths)
    if cloud is None or cloud.pid != started["pid"]:
        raise GpuctlError("the embedded cloud was stopped while it was being started", "try again")
    return replace(cloud, lost=tuple(started["lost"]))


def lost_in_words(lost: Sequence[str], paths: Paths) -> str:
    """The hosts that were lost with an embedded cloud that had died, and of which of this laptop's runs they were."""
    runs = {one: folder.name for folder in all_run_folders(paths.runs) for one in folder.progress().instance_ids}
    named = [f"{one} (run {runs[one]})" if one in runs else one for one in lost]
    return f"the embedded cloud had died, and with it: {', '.join(named)}"


def stop_embedded(paths: Paths) -> dict[str, Any]:
    """End the embedded cloud and every host in it."""
    return _cloud_command(paths, "stop")


def embedded_status(paths: Paths) -> dict[str, Any]:
    """Whether the embedded cloud runs, where, how many instances it has, and how much hosts have installed."""
    return _cloud_command(paths, "status")


def clean_embedded(paths: Paths) -> dict[str, Any]:
    """Remove what embedded hosts have installed and none uses now."""
    return _cloud_command(paths, "clean")


def embedded_if_running(paths: Paths) -> EmbeddedCloud | None:
    """The embedded cloud as its own file tells of it, if what answers at that address has proven to be it."""
    cloud, nonce = _recorded(paths), token_hex(16)
    if cloud is None or not (cloud.key or is_held(paths.cloud / "cloud.lock")):  # a cloud of before has no key
        return None
    url = f"{cloud.endpoint}/gpuctl/health?nonce={nonce}"
    try:
        health = parse(web.get(url, limit=_HEALTH_LIMIT, timeout_s=_HEALTH_TIMEOUT_S, key=cloud.key))
        itself = not cloud.key or proves(cloud.key, health.get("proof"), *health_words(nonce, cloud.endpoint))
        return cloud if itself and health["pid"] == cloud.pid else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _recorded(paths: Paths) -> EmbeddedCloud | None:
    try:
        return loads((paths.cloud / "cloud.json").read_bytes(), EmbeddedCloud)
    except (OSError, ValueError):
        return None


def _cloud_command(paths: Paths, verb: str, *words: str) -> dict[str, Any]:
    if any(find_spec(needed) is None for needed in ("moto", "asyncssh", "psutil")):
        raise GpuctlError(
            "the embedded cloud is not installed (--cloud embedded)",
            "in a checkout of gpuctl, run: pip install '.[embedded]' (or pipx install --force '.[embedded]')",
        )
    paths.cloud.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = module_command(sys.executable, "gpuctl.embedded_cloud", verb, "--state", str(paths.cloud))
    if verb != "stop":
        command += ["--cache", str(paths.cache)]
    done = subprocess.run([*command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if done.returncode == _NOT_AS_ASKED:
            raise UsageError(said[-1])
        what = {"start": "could not start", "stop": "could not be stopped", "status": "did not answer"}.get(
            verb, f"could not {verb}"
        )
        raise GpuctlError(f"the embedded cloud {what}: {said[-1]}", f"its log is {paths.cloud / 'cloud.log'}")
    answer: dict[str, Any] = parse(done.stdout.strip().splitlines()[-1])
    return answer
