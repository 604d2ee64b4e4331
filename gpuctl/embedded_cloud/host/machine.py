"""The host's second process: it boots as cloud-init would, and is the SSH server.

Its standard input is its lifeline: when the first process is gone, however it went, this one ends everything.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from gpuctl.embedded_cloud.host import environment
from gpuctl.embedded_cloud.host.boot import CloudConfig, parse
from gpuctl.embedded_cloud.host.children import Children
from gpuctl.embedded_cloud.host.config import MachineConfig
from gpuctl.embedded_cloud.host.processes import adopt_orphans, end_all


def main() -> None:
    """Runs until it is killed, or the first process is gone."""
    config = MachineConfig.from_json(sys.stdin.buffer.readline())
    adopt_orphans()
    os.umask(0o022)  # as on any host: what comes home has the modes that it would have there
    _forget_signals()
    asyncio.run(_run(config))


def _forget_signals() -> None:
    """A cloud started under `nohup` ignores hang-ups, and what is ignored or blocked is inherited: not by a host."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


async def _run(config: MachineConfig) -> None:
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _on_lifeline, config)
    children = Children()
    cloud_config = parse(config.host.user_data)
    # Importing the SSH library takes most of a boot's time: meanwhile the boot script runs.
    loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "gpuctl.embedded_cloud.host.sshd"))
    if config.boot:
        await _boot_script(config, cloud_config, children)
    sshd = await loading
    try:
        server = await sshd.serve(config.host, config.run_folder, cloud_config, children)
    except ValueError as error:
        _report({"event": "boot-warning", "message": f"a key in the user-data cannot be read: {error}"})
        server = await sshd.serve(config.host, config.run_folder, CloudConfig(), children)
    if config.boot:
        _report({"event": "booted"})
    await server


async def _boot_script(config: MachineConfig, cloud_config: CloudConfig, children: Children) -> None:
    """Runs `bootcmd` to its end; its output goes where cloud-init's goes."""
    if not cloud_config.script:
        return
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with environment.log(config.host, "cloud-init-output.log").open("ab") as output:
        os.fchmod(output.fileno(), 0o600)
        children.start(
            ["/bin/sh", "-c", cloud_config.script],
            env=environment.environment(config.host, config.run_folder, user="root"),
            folder=environment.home(config.host),
            streams=(subprocess.DEVNULL, output.fileno(), output.fileno()),
            on_exit=ended.set_result,
        )
    await ended


def _on_lifeline(config: MachineConfig) -> None:
    if not os.read(sys.stdin.fileno(), 1):
        end_all(config.host.mark, root=os.getpid())
        environment.remove_run_folder(Path(config.run_folder))
        os._exit(0)


def _report(event: dict[str, str]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
