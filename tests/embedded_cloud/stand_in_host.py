"""A host of a few lines, for tests of what the cloud does with one: it speaks the host's protocol and no SSH.

Its user-data says how it behaves: `poweroff`, `reboot-once`, `crash`, `boot-error`; else it runs until it is let go.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def say(**event: str) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    config = json.loads(sys.stdin.readline())
    disk = Path(config["disk"])
    boots = disk / "boots"
    disk.mkdir(exist_ok=True)
    boots.write_text((boots.read_text() if boots.exists() else "") + "boot\n")
    (disk / "config.json").write_text(json.dumps({**config, "environ": dict(os.environ), "pid": os.getpid()}))
    behaviour = config["user_data"].strip()
    if behaviour == "boot-error":
        say(event="boot-error", message="unknown key runcmd")
        say(event="ended", reason="boot-error")
        return
    say(event="booted")
    if behaviour == "crash":
        os._exit(9)
    if behaviour == "poweroff" or (behaviour == "reboot-once" and boots.read_text().count("boot") == 1):
        say(event="ended", reason=behaviour.partition("-")[0])
        return
    sys.stdin.read()
    say(event="ended", reason="lifeline")


main()
