"""The cloud's one process: from a state folder and a port to a server that runs, and to its end."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from functools import cache
from typing import Any

from filelock import FileLock, Timeout

from gpuctl.core.cloud_key import host_words, prove
from gpuctl.embedded_cloud import cleanup
from gpuctl.embedded_cloud import place as places
from gpuctl.embedded_cloud.control import Options, shared_cache
from gpuctl.embedded_cloud.environment import image_environment
from gpuctl.embedded_cloud.place import Place, Running
from gpuctl.embedded_cloud.pythons import Python, PythonError, find_pythons
from gpuctl.embedded_cloud.shared_environments import LIMIT_BYTES, remove_unused
from gpuctl.embedded_cloud.sockets import listen

_LOOK_EVERY_S = 2.0
_LOCK_WITHIN_S = 1.0
"""Who asks whether a cloud lives holds its lock for a moment."""

log = logging.getLogger(__name__)


class CannotServeError(Exception):
    """Why this process cannot be the state's cloud, in one line."""


def serve(place: Place, options: Options) -> int:
    """Is the cloud until SIGTERM or SIGINT; answers with the exit code.

    One JSON line on standard output, once it serves: `{"endpoint", "pid", "started", "lost"}`; else `{"error"}`.
    """
    ended = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: ended.set())
    lock = FileLock(place.serve_lock, mode=0o600)
    try:
        lock.acquire(timeout=_LOCK_WITHIN_S, poll_interval=0.02)
        with _listen(place, options.port) as listener:
            return _run(place, options, listener, ended=ended)
    except Timeout:
        return _fail(f"a cloud is already running in {place.state}")
    except (CannotServeError, PythonError) as error:
        return _fail(str(error))
    finally:
        lock.release()


def _fail(message: str) -> int:
    print(json.dumps({"error": message}), flush=True)
    return 1


def _listen(place: Place, port: int) -> socket.socket:
    """A socket on the asked port; without one on that of the last cloud, so that exported variables stay valid."""
    try:
        return listen(port) if port else listen(places.last_port(place), 0)
    except OSError as error:
        why = os.strerror(error.errno or 0)  # `strerror` says where, too
        raise CannotServeError(f"port {port} of 127.0.0.1 cannot be used ({why}); choose another") from error


def _run(place: Place, options: Options, listener: socket.socket, *, ended: threading.Event) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    lost = cleanup.clear(place)
    key = secrets.token_urlsafe(32)
    cloud = _Cloud(place, options, listener, key=key)
    running = Running(cloud.endpoint, pid=os.getpid(), started=time.time(), state=str(place.state), key=key)
    thread = threading.Thread(target=cloud.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    places.publish(place, running)
    told = {name: value for name, value in asdict(running).items() if name not in ("state", "key")}
    print(json.dumps(told | {"lost": lost}), flush=True)
    while not ended.wait(_LOOK_EVERY_S):
        if places.recorded(place) != running:
            log.error("%s is not this cloud's any more: it ends", place.cloud_json)
            break
    cloud.end()
    if places.recorded(place) == running:
        place.cloud_json.unlink(missing_ok=True)
    return 0


class _Cloud:
    """The parts, put together."""

    def __init__(self, place: Place, options: Options, listener: socket.socket, *, key: str) -> None:
        os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
        from gpuctl.embedded_cloud import service_models

        service_models.install()
        from gpuctl.embedded_cloud import aws, http_app, moto_patches
        from gpuctl.embedded_cloud.faults import Calls, Faults
        from gpuctl.embedded_cloud.images import Catalogue
        from gpuctl.embedded_cloud.instances import Instances

        moto_patches.install()
        self._place = place
        self._options = options
        self._key = key
        self._images = Catalogue(find_pythons(options.pythons))
        self._environment = cache(self._make_environment)
        self._environments_seen: set[str] = set()
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        lock = threading.RLock()
        make_host = self._make_host if options.hosts else None
        self._instances = Instances(lock=lock, place=place, make_host=make_host)
        faults, calls = Faults(), Calls()
        parts: dict[str, Any] = {"instances": self._instances, "faults": faults, "calls": calls, "images": self._images}
        api = aws.AWS(lock=lock, key=key, **parts)
        app = http_app.App(str(place.state), endpoint=self.endpoint, key=key, aws=api, **parts)
        self.server = http_app.server(listener, app)

    def _make_environment(self, python: Python) -> dict[str, str]:
        shared = shared_cache(self._place, self._options)
        environments = shared / "environments"
        environments.mkdir(parents=True, exist_ok=True)
        environments.chmod(0o700)
        tools = self._place.state / "bin" / f"python{python.minor}"
        return image_environment(os.environ, python=python, cache=shared, tools=tools)

    def _keep_within_limit(self) -> None:
        """Where there are new environments, have those removed that are too many."""
        folder = shared_cache(self._place, self._options) / "environments"
        names = {path.name for path in folder.glob("*")}
        if names != self._environments_seen:
            self._environments_seen = names
            words = {"hosts": self._place.hosts, "limit_bytes": LIMIT_BYTES}
            threading.Thread(target=remove_unused, args=(folder,), kwargs=words, daemon=True).start()

    def _make_host(self, instance: Any, **events: Any) -> Any:
        from gpuctl.embedded_cloud.host_process import HOST_COMMAND, HostProcess
        from gpuctl.embedded_cloud.run_instances import boot_text

        disk = self._place.hosts / instance.id
        disk.parent.mkdir(mode=0o700, exist_ok=True)
        token = prove(self._key, *host_words(instance.id))
        python = self._images.python_of(instance.image_id, region=instance.region_name)
        config = {
            "instance_id": instance.id,
            "disk": str(disk),
            "admits_url": f"{self.endpoint}/gpuctl/hosts/{instance.id}/admits?token={token}",
            "imds_url": f"{self.endpoint}/imds/{instance.id}/{token}",
            "user_data": boot_text(instance.user_data),
            "env": self._environment(python),
            "mark": instance.id,
        }
        self._keep_within_limit()
        command = json.loads(self._options.host_command) if self._options.host_command else HOST_COMMAND
        return HostProcess(config, log_file=self._place.log, command=command, **events)

    def end(self) -> None:
        """No more requests, no more hosts, nothing of them on disk."""
        self.server.shutdown()
        self._instances.end_all()
        for folder in (self._place.hosts, self._place.ledger):
            shutil.rmtree(folder, ignore_errors=True)
