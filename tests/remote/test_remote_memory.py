"""What a laptop remembers of a run's pulls: no other pull, no damage and nothing that a host says spoils it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from remote_servers import Server

from gpuctl.core.outputs import Wish
from gpuctl.state.runs import RunFolder
from gpuctl.workflows.down import _save_all
from gpuctl.workflows.hosts import RunHandle
from gpuctl.workflows.pull import PullResult, not_home, note_home, pull_from
from tests.reporters import Notes, Silent


def _program(server: Server, files: list[str], state: dict[str, Any], *, wait_s: float = 0, first: str = "") -> None:
    server.program(f"""
        {first}
        state = json.loads({json.dumps(state)!r})
        if verb == "state":
            emit("state", **state)
        if verb == "receipt":
            emit("receipt")
        if verb == "manifest":
            time.sleep({wait_s})
            for path in {files!r}: listed(path, b"good")
            emit("manifest", files=1, bytes=4, state=state)
        if verb == "send":
            with stream() as tar:
                for path in request["paths"]:
                    packed(tar, path, b"good")
                    sent(path, b"good")
    """)


def _pull(server: Server, folder: RunFolder, home: Path) -> PullResult:
    run = RunHandle("toy", cast(Any, None), cast(Any, None), folder)
    with server.host() as host:
        pulled = pull_from(run, host, home, reporter=Silent())
    note_home(run, home, [pulled])
    return pulled


def test_a_pull_asks_for_no_gpus(server: Server, tmp_path: Path) -> None:
    """`nvidia-smi` of a busy host takes long, and nobody looks at what it says."""
    _program(server, ["a"], {"state": "running"}, first='assert verb != "state" or request["gpus"] is False')
    assert _pull(server, RunFolder(tmp_path / "toy"), tmp_path / "home").result.files == ("a",)


def test_a_log_that_cannot_be_kept_stops_no_down(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is home, the log with it, and that is known before the host is asked for the log once more."""
    folder, told = RunFolder(tmp_path / "toy"), Notes()
    known = server.home / "gpuctl" / "known"
    first = 'if verb == "follow": open(os.path.expanduser("~/gpuctl/known"), "w").close(); sys.exit()'
    _program(server, ["gpuctl/log"], {"state": "succeeded"}, first=first)
    monkeypatch.setattr("gpuctl.workflows.down.open_host_started", lambda run: server.host())
    run = RunHandle("toy", cast(Any, None), cast(Any, None), folder)
    (saved,) = _save_all(run, [run], where=tmp_path / "home", reporter=told, wish=Wish())
    assert saved.result.complete and folder.progress().home and known.exists()
    assert len(told.notes) == 1 and "the log of toy" in told.notes[0]


def test_two_pulls_of_a_run_at_once_remember_both(server: Server, tmp_path: Path) -> None:
    """Into two folders, and the run's first two: each of them is the run's afterwards, with what lies in it."""
    folder, homes = RunFolder(tmp_path / "toy"), [tmp_path / "one", tmp_path / "two"]
    _program(server, ["a"], {"state": "running"}, wait_s=1)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda home: _pull(server, folder, home), homes))
    stored = folder.pulled()["homes"]
    assert {home: values["claimed"] for home, values in stored.items()} == {str(home): ["a"] for home in homes}
    for home in homes:
        assert _pull(server, folder, home).result.unchanged == 1


@pytest.mark.parametrize("damaged", [[1], {"files": {"a": 5}, "claimed": 3}, {"files": [], "claimed": [["a"]]}])
def test_a_damaged_memory_ends_no_pull(server: Server, tmp_path: Path, damaged: object) -> None:
    """What is not known any more is found at home, and what else the file says stays."""
    folder, home = RunFolder(tmp_path / "toy"), tmp_path / "home"
    _program(server, ["a"], {"state": "running"})
    _pull(server, folder, home)
    folder.write_pulled({**folder.pulled(), "homes": {str(home): damaged, "other": {"claimed": ["b"]}}})
    assert _pull(server, folder, home).result.unchanged == 1
    assert folder.pulled()["homes"]["other"] == {"claimed": ["b"]}


def test_a_run_that_should_have_left_something_is_not_home(server: Server, tmp_path: Path) -> None:
    """Only the log of hours came: a host that answers no more is no reason for `down` to take that for all. A time
    that no clock shows is none."""
    folder = RunFolder(tmp_path / "toy")
    _program(server, ["gpuctl/log"], {"state": "succeeded", "started": 1.0, "ended": 9e3})
    brought = _pull(server, folder, tmp_path / "home")
    assert "only the log" in str(not_home("toy", brought)) and not folder.progress().home
    _program(server, ["gpuctl/log"], {"state": "succeeded", "started": 1.0, "ended": 10**400})
    assert _pull(server, folder, tmp_path / "home").ran_s is None and folder.progress().home


def test_what_no_folder_may_hold_is_not_sent_to_another(server: Server, tmp_path: Path) -> None:
    """The words to type would not help: the name is refused wherever it is pulled to."""
    _program(server, [".docker/config.json"], {"state": "succeeded"})
    left = not_home("toy", _pull(server, RunFolder(tmp_path / "toy"), tmp_path / "home"))
    assert left is not None and "gpuctl ssh toy" in str(left) and "gpuctl pull" not in str(left)


def test_one_instances_files_never_replace_anothers(server: Server, tmp_path: Path) -> None:
    """A run whose host was another: what came from that one stays, and what this one has of the name is told."""
    folder, home = RunFolder(tmp_path / "toy"), tmp_path / "home"
    _program(server, ["a"], {"state": "running"})
    folder.note(instance_ids=("i-1",))
    _pull(server, folder, home)
    (home / "a").write_bytes(b"the first host's")
    folder.note(instance_ids=("i-2",))
    (left,) = _pull(server, folder, home).result.left
    assert left.path == "a" and "this run did not download" in left.why
    assert (home / "a").read_bytes() == b"the first host's"


def test_what_is_called_as_another_hosts_folder_is_told(server: Server, tmp_path: Path) -> None:
    """With two hosts DEST/host-1 is the second one's: the first writes nothing there."""
    folder = RunFolder(tmp_path / "toy")
    folder.note(instance_ids=("i-1", "i-2"))
    _program(server, ["host-1/a", "b"], {"state": "running"})
    (left,) = _pull(server, folder, tmp_path / "home").result.left
    assert left.path == "host-1/a" and "another host of the run" in left.why
    assert (tmp_path / "home/b").exists() and not (tmp_path / "home/host-1").exists()
