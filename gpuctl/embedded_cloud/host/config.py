"""What a host is started with: one line of JSON, from the cloud to the first process and on to the second."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_TEXTS = ("instance_id", "disk", "admits_url", "imds_url", "user_data", "mark")


@dataclass(frozen=True)
class HostConfig:
    """One host, as the cloud describes it.

    `listen_fd` is a listening socket, inherited. `GET admits_url?address=A` answers 2xx where the host's security
    groups let A in. `env` is what the image puts into every process's environment, PATH included. `mark` is in the
    environment of whatever the host starts (`MARK_VARIABLE`), so that it can be found again.
    """

    instance_id: str
    disk: Path
    listen_fd: int
    admits_url: str
    imds_url: str
    user_data: str
    env: dict[str, str]
    mark: str

    @classmethod
    def from_json(cls, text: str | bytes) -> HostConfig:
        """Raises ValueError where the text is no host's description."""
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("a host's description is a JSON object")
        for name in _TEXTS:
            if not isinstance(fields.get(name), str):
                raise ValueError(f"a host's {name} is text")
        env = fields.get("env")
        if not isinstance(env, dict) or not all(isinstance(word, str) for pair in env.items() for word in pair):
            raise ValueError("a host's env is an object of texts")
        if not isinstance(fields.get("listen_fd"), int):
            raise ValueError("a host's listen_fd is a number")
        texts = {name: fields[name] for name in _TEXTS if name != "disk"}
        return cls(disk=Path(fields["disk"]), listen_fd=fields["listen_fd"], env=env, **texts)

    def to_json(self) -> str:
        """One line, the inverse of `from_json`."""
        return json.dumps(asdict(self) | {"disk": os.fspath(self.disk)})


@dataclass(frozen=True)
class MachineConfig:
    """What the first process gives the second: the host, its run folder, and whether it is to boot or only to serve."""

    host: HostConfig
    run_folder: Path
    boot: bool

    @classmethod
    def from_json(cls, text: str | bytes) -> MachineConfig:
        """Raises ValueError or KeyError where the text is not what `to_json` made."""
        fields = json.loads(text)
        host = HostConfig.from_json(json.dumps(fields["host"]))
        return cls(host=host, run_folder=Path(fields["run_folder"]), boot=bool(fields["boot"]))

    def to_json(self) -> str:
        """One line, the inverse of `from_json`."""
        return json.dumps(
            {"host": json.loads(self.host.to_json()), "run_folder": os.fspath(self.run_folder), "boot": self.boot}
        )
