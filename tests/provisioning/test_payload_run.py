"""`start`, `run`, `stop`: training in a pane, every byte kept, its end told as it was."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from payload_host import Host, wait_for

from provisioning.terminal import harmless

POLITE = """
import sys, time
print("up", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("saving", flush=True)
    open("outputs/saved.pt", "w").write("x")
    sys.exit(0)
"""


def record(host: Host) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((host.root / "run/1/state.json").read_text())
    return read


@pytest.mark.parametrize(
    ("script", "state", "code"),
    [
        ("print('fine')", "succeeded", 0),
        ("raise SystemExit(1)", "failed", 1),
        ("import os; os.kill(os.getpid(), 9)", "failed", 137),
        ("import os; os.kill(os.getpid(), 15)", "failed", 143),
    ],
)
def test_how_training_ended_is_told(host: Host, script: str, state: str, code: int) -> None:
    """Exit code 0 is success, any other and any signal a failure."""
    host.train(script)
    over = host.wait_until_over()
    assert (over["state"], over["exit_code"]) == (state, code)
    assert over["started"] <= over["ended"] <= time.time()


def test_a_command_that_is_not_there(host: Host) -> None:
    """The log says which command was not found, and the exit code is a shell's."""
    host.provision(["no-such-program", "-x"], {"a": b""})
    assert host.start()["state"] == "failed"
    assert host.state()["exit_code"] == 127
    assert host.log == b"gpuctl: command not found: no-such-program\n"


def test_a_command_that_may_not_be_run(host: Host) -> None:
    """A file that is not executable is said to be so."""
    host.provision(["./script.sh"], {"script.sh": b"echo hello\n"})
    host.start()
    assert host.state()["exit_code"] == 126
    assert b"permission denied" in host.log


def test_the_commands_world(host: Host) -> None:
    """The command runs in the workspace, the run's Python first on PATH, with all that gpuctl promises it."""
    script = (
        "import json, os, sys, shutil\n"
        "print(json.dumps({**os.environ, 'cwd': os.getcwd(), 'prefix': sys.prefix, 'which': shutil.which('python')}))"
    )
    host.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    host.train(
        script, env={"MINE": "a 'quoted' $(word)\nline", "PYTHONUNBUFFERED": "2"}, outputs={"paths": ["out/deep"]}
    )
    host.wait_until_over()
    seen = json.loads(host.log)
    venv = str(host.root / "venv")
    assert seen["cwd"] == str(host.work)
    assert (seen["prefix"], seen["VIRTUAL_ENV"], seen["which"]) == (venv, venv, f"{venv}/bin/python")
    assert seen["GPUCTL_RUN"] == "char-rnn-k3f9"
    assert seen["GPUCTL_METRICS"] == str(host.root / "run/metrics.jsonl")
    assert seen["GPUCTL_OUTPUTS"] == str(host.work / "out/deep")
    assert (host.work / "out/deep").is_dir()
    assert seen["MINE"] == "a 'quoted' $(word)\nline"
    assert seen["PYTHONUNBUFFERED"] == "2"
    assert "PYTHONDONTWRITEBYTECODE" not in seen


def test_start_twice_is_one_training(host: Host) -> None:
    """An answer that was lost may be asked for again; the next attempt starts anew."""
    host.train("print('once', flush=True); import time; time.sleep(1)")
    first = record(host)["pid"]
    assert host.start()["state"] == "running"
    host.wait_until_over()
    assert host.start()["state"] == "succeeded"
    assert record(host)["pid"] == first
    assert host.log == b"once\n"
    host.train("print('twice', flush=True)")
    host.wait_until_over()
    assert host.log == b"once\ntwice\n"


def test_each_attempt_starts_once_and_how_it_ended_is_kept(host: Host) -> None:
    """A lost answer starts nothing, however often the host is provisioned for it; the next attempt starts anew."""
    host.train("print('one')")
    first = host.wait_until_over()
    for _ in range(2):
        host.provision(["python", "train.py"], {"train.py": b"print('again')"})
        assert host.start()["ended"] == first["ended"]
    host.train("import sys; print('two'); sys.exit(3)")
    second = host.wait_until_over()
    assert (first["attempt"], second["attempt"]) == (1, 2)
    ends = [json.loads((host.root / f"run/{number}/exit.json").read_text()) for number in (1, 2)]
    assert [(end["state"], end["exit_code"]) for end in ends] == [("succeeded", 0), ("failed", 3)]
    assert host.log == b"one\ntwo\n"
    assert [event for event in host.call("manifest") if event["event"] == "skipped"] == []


def test_the_last_attempt_that_began_holds_until_the_next_does(host: Host) -> None:
    """Provisioned for the next and not started: what the last one left elsewhere is still told, and so is its end."""
    host.train("import pathlib, os\npathlib.Path(os.environ['HOME'], 'elsewhere.pt').write_bytes(b'x')", idle_s=3600)
    host.wait_until_over()
    host.provision(["python", "train.py"], {"train.py": b"print('next')"}, attempt=3, idle_s=3600)
    events = host.call("manifest")
    assert events[-1]["state"]["state"] == "succeeded" and host.state()["state"] == "none"
    assert [event["path"] for event in events if event.get("kind") == "outside"] == ["~/elsewhere.pt"]
    assert host.call("receipt", files=0, bytes=0, at=1.0, over=True)[-1]["final"] is True
    assert (host.root / "run/1/receipt.json").exists()
    host.attempt = 3
    assert host.start()["state"] in ("running", "succeeded"), "the waiting supervisor of the first gives way"
    assert host.wait_until_over()["attempt"] == 3


NUMBERED = """
import os, pathlib
run = pathlib.Path(os.environ["GPUCTL_METRICS"]).parent
(run / "1000").write_bytes(b"x")
(run / "7").mkdir()
(run / "7/exit.json").write_bytes(b"{}")
(run / "²").write_bytes(b"x")
(run / "1/mine.pt").write_bytes(b"x")
"""


def test_what_a_command_calls_by_a_number_is_no_attempt(host: Host) -> None:
    """Below gpuctl's own folder too it is told, whatever it is called; and no name ends a pull."""
    host.train(NUMBERED)
    host.wait_until_over()
    told = {event["path"] for event in host.call("manifest") if event.get("kind") == "outside"}
    assert told == {"~/gpuctl/run/1000", "~/gpuctl/run/7/", "~/gpuctl/run/²", "~/gpuctl/run/1/mine.pt"}


def test_an_early_payloads_run_is_attempt_one(host: Host) -> None:
    """Its files lay in `run` itself: found again by a later payload, it is not started a second time."""
    host.train("print('once')")
    host.wait_until_over()
    for path in (host.root / "run/1").iterdir():
        path.rename(host.root / "run" / path.name)
    (host.root / "run/1").rmdir()
    assert host.state()["state"] == "succeeded" and host.start()["state"] == "succeeded"
    assert host.log == b"once\n"


@pytest.mark.parametrize("attempt", [0, "2", 1.0, True, None, 10**7])
def test_an_attempt_is_a_number(host: Host, attempt: object) -> None:
    """What is none is refused before anything is written."""
    with pytest.raises(AssertionError, match="no number of an attempt"):
        host.provision(["python", "train.py"], {"train.py": b""}, attempt=attempt)


def test_start_answers_at_the_first_output(host: Host) -> None:
    """A launch need not wait two seconds where the command has printed: what it prints later is not in the log yet."""
    script = b"import time; print('here', flush=True); time.sleep(1.5); print('more', flush=True); time.sleep(60)"

    def printed_at_the_answer() -> int:
        host.provision(["python", "t.py"], {"t.py": script})
        before = len(host.log)
        state = host.start()
        host.call("stop", grace_s=1)
        assert state["state"] == "running"
        return int(state["log_bytes"]) - before

    wait_for(lambda: printed_at_the_answer() == len(b"here\n"))


def test_a_silent_command_is_started_after_two_seconds(host: Host) -> None:
    """A command that prints nothing has started once it has lived for two seconds."""
    host.provision(["sleep", "60"])
    state = host.start()
    assert (state["state"], state["log_bytes"]) == ("running", 0)
    assert time.time() - state["started"] >= 2
    host.call("stop", grace_s=1)


def test_c_c_in_the_pane_reaches_the_command_alone(host: Host) -> None:
    """The command saves and ends with 0; the supervisor outlives C-c and tells the run as stopped."""
    host.train(POLITE)
    wait_for(lambda: b"up" in host.log)
    host.tmux("send-keys", "-t", "=gpuctl:", "C-c")
    over = host.wait_until_over()
    assert (over["state"], over["exit_code"]) == ("stopped", 0)
    assert (host.work / "outputs/saved.pt").exists()


def test_c_z_does_not_halt_training_unseen(host: Host) -> None:
    """A C-z by mistake in the pane changes nothing."""
    host.train("import time\nfor i in range(1000): print(i, flush=True); time.sleep(0.05)")
    host.tmux("send-keys", "-t", "=gpuctl:", "C-z")
    host.tmux("send-keys", "-t", "=gpuctl:", "C-s")
    time.sleep(0.3)
    size = len(host.log)
    wait_for(lambda: len(host.log) > size)
    host.call("stop", grace_s=2)


def test_stop_lets_the_command_save(host: Host) -> None:
    """SIGINT comes first, and what the command does then is waited for."""
    host.train(POLITE)
    answer = host.call("stop", grace_s=20)[-1]
    assert (answer["event"], answer["state"], answer["exit_code"]) == ("state", "stopped", 0)
    assert answer["why"] is None
    assert host.log.endswith(b"saving\n")


def test_stop_insists(host: Host) -> None:
    """A command that ignores SIGINT gets SIGTERM after half of the grace, and SIGKILL after all of it."""
    script = """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, frame: print(signal.Signals(n).name, flush=True))
print("up", flush=True)
while True:
    time.sleep(0.1)
"""
    host.train(script)
    began = time.monotonic()
    answer = host.call("stop", grace_s=1)[-1]
    assert time.monotonic() - began > 0.9
    assert (answer["state"], answer["exit_code"]) == ("stopped", 137)
    assert host.log == b"up\nSIGINT\nSIGTERM\n"


def test_stop_goes_on_without_the_one_who_asked(host: Host) -> None:
    """The supervisor keeps the time of a stop: the connection may break."""
    host.train("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\nsignal.pause()")
    process = host.open("stop")
    assert process.stdin is not None
    process.stdin.write(b'{"schema": 1, "grace_s": 1.5}\n')
    process.stdin.flush()
    wait_for(lambda: (host.root / "run/1/stop.json").exists())
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    assert host.wait_until_over()["state"] == "stopped"


def test_stop_where_nothing_runs(host: Host) -> None:
    """It answers at once what there is."""
    assert host.call("stop", grace_s=1)[-1]["state"] == "none"
    host.train("print(1)")
    host.wait_until_over()
    assert host.call("stop", grace_s=1)[-1]["state"] == "succeeded"


def test_a_killed_tmux_server_stops_training_politely(host: Host) -> None:
    """The pane is gone, the command saves, and how it ended is written down."""
    host.train(POLITE)
    host.tmux("kill-server")
    over = host.wait_until_over()
    assert (over["state"], over["exit_code"]) == ("stopped", 0)
    assert over["why"] == "its host was shut down, or its tmux session was ended"
    assert (host.work / "outputs/saved.pt").exists()


def test_a_killed_supervisor_leaves_a_failed_run(host: Host) -> None:
    """Without its supervisor a run is failed, exit code unknown, and its command ends."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(600)")
    told = record(host)
    os.kill(told["pid"], signal.SIGKILL)
    over = wait_for(lambda: (state := host.state())["state"] != "running" and state)
    assert (over["state"], over["exit_code"]) == ("failed", None)
    wait_for(lambda: [pid for pid in host.left() if is_python_script(pid, b"train.py")] == [])
    os.kill(told["pgid"], signal.SIGKILL)  # the guard would go on looking for twenty seconds
    assert host.start()["state"] == "failed", "this attempt has ended"
    assert host.train("import time\nprint('up', flush=True)\ntime.sleep(600)")["state"] == "running"
    host.call("stop", grace_s=1)


def is_python_script(pid: int, word: bytes) -> bool:
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_every_byte_is_kept(host: Host) -> None:
    """Binary, lines of a megabyte, progress bars, terminal escapes, a last line without its end: all is in the log."""
    script = """
import hashlib, os, sys
bars = b"".join(b"\\rstep %d" % i for i in range(5000))
data = bytes(range(256)) * 64 + b"x" * (1 << 20) + b"\\n" + bars + b"\\x1b[2J\\x1b]0;t\\x07end"
view = memoryview(data)
while view:
    view = view[os.write(1, view):]
open("outputs/sum", "w").write(hashlib.sha256(data).hexdigest())
"""
    host.train(script)
    assert host.wait_until_over()["state"] == "succeeded"
    assert hashlib.sha256(host.log).hexdigest() == (host.work / "outputs/sum").read_text()


def test_standard_error_is_in_the_log_too(host: Host) -> None:
    """Both streams go to the one log, in order."""
    host.train("import os\nfor i in range(50): os.write(1 + i % 2, b'%d ' % i)")
    host.wait_until_over()
    assert host.log == b"".join(b"%d " % i for i in range(50))


def test_nothing_in_the_output_drives_the_terminal(host: Host) -> None:
    """Escapes are shown in the pane, not obeyed: the title, the screen and the clipboard stay what they were."""
    script = (
        "import sys, time\n"
        "sys.stdout.buffer.write(b'before\\x1b]2;hacked\\x07\\x1b[2J\\x1b[31mred\\xc2\\x9b2J after\\n')\n"
        "sys.stdout.flush(); time.sleep(60)"
    )
    host.train(script)
    shown = wait_for(
        lambda: (out := host.tmux("capture-pane", "-p", "-t", "=gpuctl:").stdout) and b"after" in out and out
    )
    assert b"before^[]2;hacked^G^[[2J^[[31mred" in shown
    title = host.tmux("display-message", "-p", "-t", "=gpuctl:", "#{pane_title}").stdout
    assert b"hacked" not in title
    host.call("stop", grace_s=1)


def test_a_terminal_that_does_not_read_holds_nothing_up(host: Host) -> None:
    """Whatever the pane does, the command's output goes on into the log: here its server is halted outright."""
    script = (
        "import time\nprint('up', flush=True)\ntime.sleep(1.5)\n"
        "for i in range(20000): print('x' * 100)\nprint('through', flush=True)\ntime.sleep(60)"
    )
    host.train(script)
    server = int(host.tmux("display-message", "-p", "#{pid}").stdout)
    os.kill(server, signal.SIGSTOP)
    try:
        wait_for(lambda: host.log.endswith(b"through\n"))
    finally:
        os.kill(server, signal.SIGCONT)
    host.call("stop", grace_s=1)


def test_what_the_command_leaves_behind_is_ended(host: Host) -> None:
    """A worker that holds the pipe and ignores SIGTERM keeps nobody waiting, and does not outlive the run."""
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN);"
        ' print("worker", flush=True); time.sleep(600)\'])\n'
        "import time; time.sleep(1); print('done')"
    )
    host.train(script)
    over = host.wait_until_over()
    assert (over["state"], over["exit_code"]) == ("succeeded", 0)
    assert b"worker" in host.log and b"left running in the background was ended with it" in host.log
    wait_for(lambda: [pid for pid in host.left() if is_python_script(pid, b"worker")] == [])


def test_a_daemon_that_holds_the_pipe_keeps_nobody_waiting(host: Host) -> None:
    """What has left the group is left alone: the run is over when its command is, and says what runs on."""
    script = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nprint('done', flush=True)"
    host.train(script)
    over = host.wait_until_over()
    assert over["state"] == "succeeded" and "sleep 600" in over["why"] and b"background" not in host.log
    daemons = [pid for pid in host.left() if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"]
    assert daemons, "the run waited for it"
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)


def test_a_command_that_closes_its_output_is_waited_for(host: Host) -> None:
    """The end of the output is not the end of the command, nor a reason to spin."""
    host.train("import os, time\nprint('up', flush=True)\nos.close(1); os.close(2)\ntime.sleep(1.5)\nos._exit(5)")
    over = host.wait_until_over()
    assert over["exit_code"] == 5
    assert over["ended"] - over["started"] >= 1.5


def test_input_comes_from_the_pane(host: Host) -> None:
    """A person at the pane can answer what the command asks."""
    host.train("print('name?', flush=True); print('hello', input(), flush=True)")
    host.tmux("send-keys", "-t", "=gpuctl:", "gpuctl", "Enter")
    host.wait_until_over()
    assert b"hello gpuctl" in host.log


def test_the_supervisor_works_without_a_terminal(host: Host) -> None:
    """Started by a boot script, with no pane, it does the same."""
    host.provision(["python", "t.py"], {"t.py": b"print('no pane')"})
    process = host.open("run", stdin=subprocess.DEVNULL)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert host.state()["state"] == "succeeded"
    assert host.log == b"no pane\n"


def test_two_supervisors_are_one(host: Host) -> None:
    """The second says that there is one already, and changes nothing."""
    host.train("import time\nprint('up', flush=True)\ntime.sleep(60)")
    process = host.open("run", stdin=subprocess.DEVNULL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"already" in out
    assert host.state()["state"] == "running"
    host.call("stop", grace_s=1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\r\n", "plain\ttext\r\n"),
        ("\x1b[31m", "^[[31m"),
        ("\x00\x07\x7f", "^@^G^?"),
        ("\x9b2J", "\ufffd2J"),
        ("ünï", "ünï"),
    ],
)
def test_harmless(text: str, shown: str) -> None:
    """Control characters are shown in the way of `cat -v`."""
    assert harmless(text) == shown
