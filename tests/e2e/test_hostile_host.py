"""A host that means harm, seen from the command line: its text is shown and not obeyed, and nobody waits on it."""

from __future__ import annotations

import json
import textwrap
import time
import zipfile
from collections.abc import Callable

import pytest
from e2e_tool import Gpuctl

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202eevil\r\n\x08"
OBEYED = ("\x1b]0;", "\x1b[2J", "\x9b", "\x07", "\u202e", "\x08")

SPEAKS = f"""
import base64, json, sys
evil = {EVIL!r}
state = {{"state": "failed", "exit_code": 3, "why": evil, "started": 1e9, "ended": 253402300799, "power_off_at": 1e400}}
def emit(event, **fields):
    print(json.dumps({{"event": event, **fields}}), flush=True)
verb = sys.argv[1]
if verb == "state":
    emit("state", gpus=[{{"name": evil}}], **state)
elif verb == "follow":
    emit("log", offset=0, data=base64.b64encode((evil * 3 + "\\n").encode()).decode())
    emit("metrics", offset=0, data=base64.b64encode(b'{{"step": 1, "train_loss": NaN}}\\n').decode())
    emit("gpus", gpus=[{{"name": evil}}])
    emit("end", state=state)
elif verb == "manifest":
    emit("file", path="a" + evil, size=1, mtime_ns=1, inode=1, complete=True)
    emit("skipped", path=evil, kind=evil, why=evil, files=1, bytes=1)
    emit("skipped", path="b" + evil, kind="special", why=evil, files=0, bytes=0)
    emit("missing", path=evil)
    emit("manifest", files=1, bytes=1, state=state)
else:
    emit("error", message=evil, next=evil)
    sys.exit(1)
"""
MUTE = "import time; time.sleep(300)"


def _becomes(gpuctl: Gpuctl, name: str, source: str) -> None:
    """The payload on the run's host is this program from now on."""
    row = next(row for row in gpuctl.json("ls")["runs"] if row["run"] == name)
    home = gpuctl.home / "state/cloud/hosts" / row["hosts"][0]["instance_id"] / "home"
    place = home / "gpuctl/host.pyz"
    place.unlink()
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("__main__.py", textwrap.dedent(source))


@pytest.fixture
def run(gpuctl: Gpuctl, launched: Callable[..., str]) -> str:
    return launched()


def test_no_command_shows_what_a_terminal_would_obey(gpuctl: Gpuctl, run: str) -> None:
    """Log, reasons, names and errors of a host reach neither a terminal nor a file as more than characters."""
    _becomes(gpuctl, run, SPEAKS)
    for words in (("tail",), ("status",), ("ls",), ("metrics",), ("pull",), ("stop",), ("down", "-y")):
        names = () if words == ("ls",) else (run,)
        answer = gpuctl(*words, *names, code=None)
        assert "unexpected" not in answer.err
        assert not [one for one in OBEYED if one in answer.out + answer.err], words
    _, shown = gpuctl.on_a_terminal("tail", run)
    assert not [one for one in OBEYED if one.encode() in shown]
    for row in gpuctl.json("ls")["runs"]:
        json.dumps(row, allow_nan=False)
    gpuctl("down", "-y", "--discard", run)


@pytest.mark.prove
def test_down_of_a_host_that_answers_ssh_alone_offers_to_discard(gpuctl: Gpuctl, run: str) -> None:
    """Within a minute, with nothing removed."""
    _becomes(gpuctl, run, MUTE)
    began = time.monotonic()
    refused = gpuctl("down", "-y", run, code=1)
    assert time.monotonic() - began < 60
    assert "did not answer in time" in refused.err and "--discard" in refused.err
    gpuctl("down", "-y", "--discard", run)
