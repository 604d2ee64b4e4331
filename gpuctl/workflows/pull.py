"""Pull: outputs home, incrementally and checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpuctl.core.outputs import Pulled
from gpuctl.remote.host import Host
from gpuctl.remote.pull import PullResult, pull_outputs
from gpuctl.workflows.boot import open_host_started
from gpuctl.workflows.follow import note_state
from gpuctl.workflows.hosts import OpenRun
from gpuctl.workflows.reporter import Reporter


@dataclass(frozen=True)
class Brought:
    """What a pull brought home, and where it is."""

    destination: Path
    result: PullResult

    def to_json(self) -> dict[str, Any]:
        """As `pull --json` prints it."""
        return {
            "destination": str(self.destination),
            "files": list(self.result.files),
            "unchanged": self.result.unchanged,
            "bytes": self.result.bytes_moved,
            "skipped": [{"name": name, "why": why} for name, why in self.result.skipped],
            "incomplete": list(self.result.incomplete),
        }


def destination_of(run: OpenRun, chosen: Path | None) -> Path:
    """Where a run's outputs go: where they went last, else `./RUN/`."""
    last = run.folder.progress().destination
    return (chosen or Path(last or run.name)).absolute()


def pull(run: OpenRun, destination: Path | None, *, reporter: Reporter) -> Brought:
    """Bring home what is not home; a host that is switched off is started for it.

    Raises HostError kinds; what did come home then is whole.
    """
    with open_host_started(run) as host:
        return pull_from(run, host, destination_of(run, destination), reporter=reporter)


def pull_from(run: OpenRun, host: Host, destination: Path, *, reporter: Reporter) -> Brought:
    """Bring home over a connection that is there. What came home is all there will be only once training has ended."""
    reporter.phase("pull", f"into {destination}")
    ended = note_state(run.folder, host.call("state", {}))
    before = run.folder.pulled()
    known = before.get("files", {}) if before.get("destination") == str(destination) else {}
    run.folder.note(destination=str(destination))
    result = pull_outputs(host, destination, {name: Pulled(**values) for name, values in known.items()})
    files = {name: asdict(pulled) for name, pulled in result.known.items()}
    run.folder.write_pulled({"destination": str(destination), "files": files})
    run.folder.note(home=result.complete and ended)
    return Brought(destination, result)
