"""Bad input: one line that says what, to what and what next, the documented exit code, and nothing is created."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from e2e_tool import GPUCTL, TRAIN, Gpuctl, Inside, in_account, the_error

from gpuctl.state.records import RunRecord
from gpuctl.state.runs import RunFolder
from tests.plans import a_plan

RUN_COMMANDS = ("status", "tail", "watch", "metrics", "pull", "stop", "down", "attach", "ssh")


def named(value: object) -> str:
    """A parameter in a test's name."""
    words = value if isinstance(value, tuple) else (value,)
    return " ".join(map(str, words))[:50]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpuctl]:
    """gpuctl with no cloud: neither a running one nor AWS credentials. One folder is a project, one file is none."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "project").mkdir()
    (folder / "project/train.py").write_text(TRAIN)
    (folder / "a-file").write_text("")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    home = folder / "g"
    tool = Inside(home, folder, {**environment, "GPUCTL_HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"})
    yield tool
    tool("cloud", "stop")


@pytest.fixture(scope="module")
def cloud(shared: Gpuctl) -> Iterator[Gpuctl]:
    """gpuctl with an embedded cloud, in whose account there is nothing afterwards."""
    (shared.folder / "project").mkdir()
    (shared.folder / "project/train.py").write_text(TRAIN)
    shared("cloud", "start")
    yield Inside(shared.home, shared.folder, shared.environment)
    assert in_account(shared.ec2()) == {}


LAUNCH = ("launch", "project")
COMMAND = ("--", "python", "train.py")
WRONG_WORDS: list[tuple[tuple[str, ...], int, str]] = [
    (("launch",), 2, "Missing argument 'JOB'"),
    (("frobnicate",), 2, "No such command 'frobnicate'"),
    (("launch", "--frob", "x"), 2, "No such option '--frob'"),
    (("cloud", "frob"), 2, "No such command 'frob'"),
    (("launhc", "char_rnn"), 2, "no command 'launhc' (did you mean launch?)"),
    (("--cloud", "mars", "ls"), 2, "no cloud called 'mars'"),
    (LAUNCH, 2, "no command to run"),
    ((*LAUNCH, "--", ""), 2, "the command is empty"),
    (("launch", "no-such-job"), 6, "no job called 'no-such-job'"),
    (("launch", "char-rn"), 6, "did you mean char_rnn?"),
    (("launch", "", *COMMAND), 6, "no job called ''"),
    (("launch", "./a-file", *COMMAND), 2, "a-file is not a folder"),
    ((*LAUNCH, "--max-price", "cheap", *COMMAND), 2, "'cheap' is not a number"),
    ((*LAUNCH, "--max-price", "-1", *COMMAND), 2, "-1 is not more than 0"),
    ((*LAUNCH, "--budget", "nan", *COMMAND), 2, "nan is not more than 0"),
    ((*LAUNCH, "--max-hours", "1e999", *COMMAND), 2, "from a second to a year"),
    ((*LAUNCH, "--max-hours", "0.0000001", *COMMAND), 2, "from a second to a year"),
    ((*LAUNCH, "--on-demand", "perhaps", *COMMAND), 2, "'perhaps' is not one of"),
    ((*LAUNCH, "--gpu", "a10g:many", *COMMAND), 2, "NAME:COUNT"),
    ((*LAUNCH, "--env", "NOT_SET_HERE", *COMMAND), 2, "not set in this shell"),
    ((*LAUNCH, "--env", "2B=1", *COMMAND), 2, "not a valid variable name"),
    ((*LAUNCH, "--requirement", "torch>=", *COMMAND), 2, "--requirement 'torch>=' is not a requirement"),
    ((*LAUNCH, "--put", "no-such-file", *COMMAND), 2, "no-such-file does not exist"),
    ((*LAUNCH, "--put", "", *COMMAND), 2, "--put '' does not name a file"),
    ((*LAUNCH, "--put", ":x", *COMMAND), 2, "--put ':x' does not name a file"),
    ((*LAUNCH, "--put", "a-file:../x", *COMMAND), 2, "outside the workspace"),
    ((*LAUNCH, "--name", "Not A Name", *COMMAND), 2, "--name 'Not A Name' is not a valid name"),
    ((*LAUNCH, "--pull", "a-file", *COMMAND), 2, "is a file"),
    ((*LAUNCH, "-d", "--down", *COMMAND), 2, "choose one"),
    (("launch", "char_rnn", "--preset", "smoke"), 2, "go after --: gpuctl launch char_rnn -- --preset smoke"),
    (("launch", "--lr", "3", "./project", "-d", *COMMAND), 2, "gpuctl launch ./project -d -- python train.py --lr 3"),
    (("launch", "char_rnn", "--budgte", "3"), 2, "No such option '--budgte'"),
    (("launch", "char_rnn", "--", "--preset", "smok"), 2, "char_rnn has no preset 'smok'; did you mean smoke?"),
    (("launch", "char_rnn", "--", "--hiden=3"), 2, "char_rnn has no option --hiden; did you mean --hidden?"),
    (("local", "char_rnn", "--", "--preset=smok"), 2, "char_rnn has no preset 'smok'; did you mean smoke?"),
    (("jobs", "char_rn"), 6, "did you mean char_rnn?"),
    ((*LAUNCH, "--then", "up", *COMMAND), 2, "'up' is neither down nor down:MINUTES"),
    ((*LAUNCH, "--then", "down:soon", *COMMAND), 2, "'soon' is not a number"),
    ((*LAUNCH, "--then", "down", "--down", *COMMAND), 2, "--then down needs no laptop"),
    ((*LAUNCH, "--discard", *COMMAND), 2, "add --then down"),
    ((*LAUNCH, "--max-size", "1GB", *COMMAND), 2, "add --pull or --down"),
    (("pull", "x", "a-file"), 2, "is a file"),
    (("down",), 2, "either the names of runs or --all"),
    (("down", "x", "--all"), 2, "either the names of runs or --all"),
    (("tail", "x", "-n", "few"), 2, "'few' is not a valid"),
    (("stop", "x", "--grace", "0"), 2, "is not in the range"),
    (("cloud", "start", "--port", "70000"), 2, "is not in the range"),
]


@pytest.mark.parametrize(("words", "code", "told"), WRONG_WORDS, ids=named)
def test_wrong_words_are_told_before_anything_starts(
    alone: Gpuctl, words: tuple[str, ...], code: int, told: str
) -> None:
    """A usage error is that one line alone, whatever the cloud: none is asked, and none is started."""
    answer = replace(alone, yes=False)(*words, code=code, GPUCTL_CLOUD="embedded")
    assert told in the_error(answer)
    assert answer.out == "" and len(answer.err.splitlines()) == 1
    assert not (alone.home / "state/cloud").exists()


def test_what_hosts_have_installed_is_told_and_removed(alone: Gpuctl) -> None:
    """Whether or not an embedded cloud runs."""
    folder = alone.home / "cache/environments"
    (folder / "abc").mkdir(parents=True)
    (folder / "abc/big").write_bytes(bytes(5_000_000))
    told = alone("cloud", "status").out
    assert f"installed for hosts, in {folder}: 5.0 MB; `gpuctl cloud clean`" in told
    assert alone("cloud", "clean").out == "removed 1 environment (5.0 MB)\n"
    assert not (folder / "abc").exists() and "cloud clean" not in alone("cloud", "status").out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [(("launch", ".", *COMMAND), 1, "was deleted; cd to another one"), (("jobs", "char_rnn"), 0, "")],
    ids=["that needs it", "that does not"],
)
def test_a_working_folder_that_was_deleted(alone: Gpuctl, words: tuple[str, ...], code: int, told: str) -> None:
    """A command that needs the folder says so; any other works."""
    gone = alone.folder / "gone"
    gone.mkdir()
    script = 'rmdir ../gone && exec "$@"'
    command = ["sh", "-c", script, "sh", GPUCTL, words[0], *(("-y",) if words[0] == "launch" else ()), *words[1:]]
    done = subprocess.run(command, cwd=gone, env=alone.environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert told in done.stderr and "unexpected" not in done.stderr


ENCODINGS = (
    {"LC_ALL": "C"},
    {"LANG": "POSIX"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


@pytest.mark.parametrize("variables", ENCODINGS, ids=str)
def test_a_laptop_that_does_not_speak_utf_8(alone: Gpuctl, variables: dict[str, str], tmp_path: Path) -> None:
    """Names that its encoding does not have are told as well as it can; no command ends for that."""
    project = tmp_path / "pröjekt"
    project.mkdir()
    words = [GPUCTL, "launch", str(project), "--put", "no–such", "--dry-run", *COMMAND]
    environment = {name: value for name, value in alone.environment.items() if name != "LANG"} | variables
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith(b"gpuctl: --put: no"), done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("group", [(), ("cloud",)], ids=" ".join)
def test_a_group_alone_shows_its_help(alone: Gpuctl, group: tuple[str, ...]) -> None:
    """On standard output, over as many lines as `--help` has."""
    answer = alone(*group)
    assert answer == alone(*group, "--help") and len(answer.out.splitlines()) > 5


def test_debug_may_stand_anywhere_before_the_command_of_a_job(alone: Gpuctl) -> None:
    """As people add it to the line that failed; what comes after two dashes is the job's."""
    for words in (("--debug", "status", "nope"), ("status", "nope", "--debug")):
        assert "Traceback" in alone(*words, code=6, GPUCTL_CLOUD="embedded").err
    refused = alone("launch", "nope", "-y", "--", "python", "--debug", code=6)
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    "words", [(*LAUNCH, *COMMAND), (*LAUNCH, "-d", *COMMAND), ("down", "a-run"), ("down", "--all")], ids=" ".join
)
@pytest.mark.parametrize("where", ["aws", "embedded"])
def test_nothing_is_launched_or_taken_down_unasked(
    alone: Gpuctl, words: tuple[str, ...], where: str, tmp_path: Path
) -> None:
    """Without a terminal, `launch` and `down` need -y, whatever the cloud: none is asked for anything before."""
    told = replace(alone, yes=False)(*words, code=2, GPUCTL_CLOUD=where, GPUCTL_HOME=str(tmp_path / "g"))
    error = the_error(told)
    assert error == f"{words[0]} needs confirmation, and this is not a terminal; add -y to confirm"
    assert not (tmp_path / "g/state/cloud").exists() and not (tmp_path / "g/state/runs").exists()


WRONG_FILES: list[tuple[bytes, str]] = [
    (b'comand = "x"', "unknown key `comand`; did you mean `command`?"),
    (b"command = 3", "`command` must be a string or a list of strings, not a number"),
    (b'command = "python x && y"', "`command` is not run by a shell"),
    (b'command = "x"\n[outputs]\npath = ["x"]', "unknown key `outputs.path`; did you mean `outputs.paths`?"),
    (b'command = "x"\n[outputs]\npaths = ["../x"]', "`outputs.paths` must contain paths without `..`, not '../x'"),
    (b'command = "x"\ninclude = ["no-such"]', "include names 'no-such'"),
    (b'command = "x"\nrequirements = "no-such.txt"', "no-such.txt cannot be read (No such file or directory)"),
    (b'# one\n# two\ncommand = "x\n', "job.toml, line 3, column "),
    (b"# one\n# two\ncommand = 'x\n\n", "job.toml, line 3: "),
    (b'command = "x"\n[metrics]\npattern = "("', "`metrics.pattern`: the pattern is not a regular expression"),
    (b"\xff\xfe", "it is not UTF-8"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_FILES, ids=named)
def test_a_wrong_job_file_is_told_by_place_and_key(alone: Gpuctl, text: bytes, told: str, tmp_path: Path) -> None:
    """A job.toml that cannot be used names the file and the key, or the line; exit code 2."""
    (tmp_path / "job.toml").write_bytes(text)
    error = the_error(alone("launch", str(tmp_path), code=2))
    assert told in error and str(tmp_path) in error


HOSTILE: list[tuple[str, str | None, str]] = [
    ('include = [".ssh"]', None, "/.ssh (to {home}/.ssh, which may hold secrets)"),
    ('requirements = "../.aws/credentials"', None, "is outside {home}/cloned, and a job may only use its own files"),
    ("", "../.ssh", "data (to {home}/.ssh, which may hold secrets)"),
    ("", "../.ssh/id_ed25519", "data (to {home}/.ssh/id_ed25519, which may hold secrets)"),
]


@pytest.mark.parametrize(("text", "link", "told"), HOSTILE, ids=named)
def test_a_project_that_reaches_for_the_home_folder_is_refused(
    alone: Gpuctl, text: str, link: str | None, told: str, tmp_path: Path
) -> None:
    """What a cloned folder names or links to outside of itself does not go up, not even with -y; one line says so."""
    for name in (".ssh/id_ed25519", ".aws/credentials", "cloned/train.py", "cloned/requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "cloned/job.toml").write_text(text)
    if link is not None:
        (tmp_path / "cloned/data").symlink_to(link)
    for words in (("-y",), ("--dry-run",)):
        launch = ("launch", str(tmp_path / "cloned"), *words, *COMMAND)
        error = the_error(alone(*launch, code=2, GPUCTL_CLOUD="embedded", GPUCTL_HOME=str(tmp_path / "g")))
        assert told.format(home=tmp_path) in error
    assert not (tmp_path / "g/state/cloud").exists()


def test_too_much_is_refused_before_any_cloud_is_asked(alone: Gpuctl, tmp_path: Path) -> None:
    """By `--dry-run` too."""
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(2 * 1024**3)
    for words in (("-y",), ("--dry-run",)):
        error = the_error(alone("launch", str(tmp_path), *words, *COMMAND, code=2, GPUCTL_CLOUD="embedded"))
        assert "2.1 GB, and the limit is 1.1 GB; the largest file is data.bin (2.1 GB)" in error


def test_a_job_file_that_is_no_file_is_not_waited_for(alone: Gpuctl, tmp_path: Path) -> None:
    """A pipe by the name of job.toml is refused, not read."""
    os.mkfifo(tmp_path / "job.toml")
    assert "is not a file" in the_error(alone("launch", str(tmp_path), code=2, timeout=30))


WITHOUT_CREDENTIALS = [
    ("launch", "char_rnn"),
    ("launch", "project", *COMMAND),
    ("ls",),
    ("offers",),
    ("down", "--all", "-y"),
    *((command, "a-run") for command in RUN_COMMANDS),
]


@pytest.mark.parametrize("words", WITHOUT_CREDENTIALS, ids=" ".join)
def test_without_credentials_it_says_how_to_get_some(alone: Gpuctl, words: tuple[str, ...]) -> None:
    """Whatever needs AWS ends with exit code 5 and the ways to sign in, and remembers no run."""
    error = the_error(alone(*words, code=5))
    assert (
        error.startswith("there are no AWS credentials; ") and "aws configure" in error and "--cloud embedded" in error
    )
    assert not (alone.home / "state/runs").exists()


@pytest.mark.parametrize("variables", [{"AWS_ACCESS_KEY_ID": "half"}, {"AWS_PROFILE": "no-such-profile"}], ids=str)
def test_credentials_that_cannot_be_used_are_told_as_such(alone: Gpuctl, variables: dict[str, str]) -> None:
    """Half a key pair and a profile that is not there are exit code 5 too, each by its name."""
    error = the_error(alone("ls", code=5, **variables))
    assert "AWS_SECRET_ACCESS_KEY" in error or "no-such-profile" in error


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_an_unknown_run_is_told_by_every_command(cloud: Gpuctl, command: str) -> None:
    """Exit code 6, the name, and where to look."""
    for name in ("no-such-run", "../../etc"):
        answer = cloud(command, name, code=6)
        assert f"no run called {name!r}" in the_error(answer) and "gpuctl ls" in answer.err
        assert answer.out == ""


WISHES: list[tuple[tuple[str, ...], int, str]] = [
    (("--gpu", "z9"), 2, "no GPU 'z9' is offered here; available: "),
    (("--gpu", "a10g:3"), 2, "hosts have 1 or 4 or 8"),
    (("--instance-type", "g5.huge"), 2, "similar: g5.xlarge"),
    (("--region", "mars-1"), 2, "no AWS region 'mars-1' (from --region)"),
    (("--max-price", "0.0001"), 4, "the cheapest is "),
    (("--budget", "0.0000001"), 2, "less than a second"),
]


@pytest.mark.parametrize(("words", "code", "told"), WISHES, ids=named)
def test_a_wish_that_cannot_be_had_creates_nothing(cloud: Gpuctl, words: tuple[str, ...], code: int, told: str) -> None:
    """A GPU, type, region or price that there is not: what there is instead, before anything is made."""
    assert told in the_error(cloud(*LAUNCH, "--name", "wish", *words, *COMMAND, code=code))
    assert in_account(cloud.ec2()) == {} and not (cloud.home / "state/runs/wish").exists()


def test_a_name_in_use_is_refused_and_what_has_it_stays(cloud: Gpuctl) -> None:
    """While anything in the account is tagged with a name, no launch gets it, and nothing of it is touched."""
    ec2 = cloud.ec2()
    tags = [{"Key": "gpuctl:run", "Value": "taken"}, {"Key": "gpuctl:owner", "Value": "somebody"}]
    ec2.create_security_group(
        GroupName="theirs",
        Description="of somebody else",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )
    try:
        error = the_error(cloud(*LAUNCH, "--name", "taken", *COMMAND, code=2))
        assert "the name taken is in use: it tags 1 resource in us-east-1" in error and "gpuctl down taken" in error
        assert in_account(ec2) == {"groups": ["theirs"]}
    finally:
        ec2.delete_security_group(GroupName="theirs")


FAULTS: list[tuple[dict[str, Any], int, str]] = [
    ({"operation": "CreateFleet", "capacity": True}, 4, "no spot capacity: InsufficientInstanceCapacity"),
    ({"operation": "CreateFleet", "code": "MaxSpotInstanceCountExceeded"}, 4, "larger quota"),
    ({"operation": "CreateFleet", "code": "UnauthorizedOperation", "status": 403}, 5, "CreateFleet"),
    ({"operation": "CreateLaunchTemplate", "code": "RequestLimitExceeded", "status": 503}, 1, "try again in a moment"),
]


FAILS = ({"operation": "CreateFleet", "code": "InternalError", "status": 500}, 1, "could not create the fleet")
"""What it may have made all the same is looked for until it would have been found."""


@pytest.mark.parametrize(("fault", "code", "told"), [*FAULTS, pytest.param(*FAILS, marks=pytest.mark.prove)], ids=named)
def test_a_cloud_that_refuses_for_good_leaves_nothing(
    cloud: Gpuctl, fault: dict[str, Any], code: int, told: str
) -> None:
    """No capacity in any pool, no quota, no permission, an API that stays broken: told, and everything is removed."""
    cloud.fault(**fault, times=-1)
    try:
        assert told in the_error(cloud(*LAUNCH, "--name", "refused", *COMMAND, code=code))
    finally:
        cloud.no_faults()
    assert in_account(cloud.ec2()) == {} and not (cloud.home / "state/runs/refused").exists()


def test_a_taken_port_is_told_and_starts_nothing(alone: Gpuctl, cloud: Gpuctl) -> None:
    """A port that is another program's, or not the running cloud's, is named; no cloud is started or moved."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        home = str(alone.folder / "other-home")
        error = the_error(alone("cloud", "start", "--port", port, code=1, GPUCTL_HOME=home))
        assert f"port {port} " in error and "in use" in error
        assert json.loads(alone("cloud", "status", "--json", GPUCTL_HOME=home).out)["running"] is False
        before = cloud.endpoint()
        assert f"not on {port}" in the_error(cloud("cloud", "start", "--port", port, code=1))
        assert cloud.endpoint() == before


def test_a_home_that_cannot_be_written_is_named(alone: Gpuctl) -> None:
    """What needs no files works; what does says which cannot be made, and what to set."""
    unwritable = str(alone.folder / "a-file")
    assert "char_rnn" in alone("jobs", GPUCTL_HOME=unwritable).out
    error = the_error(alone("cloud", "start", code=1, GPUCTL_HOME=unwritable))
    assert unwritable in error and "set GPUCTL_HOME" in error


def test_a_tag_that_is_no_runs_name_reaches_no_file(cloud: Gpuctl) -> None:
    """A resource tagged with a path is listed and removed like any other; the file at that path is not touched."""
    decoy = cloud.home / "state/decoy"
    decoy.mkdir(parents=True)
    (decoy / "run.json").write_text("{}")
    ec2 = cloud.ec2()
    tags = [{"Key": "gpuctl:run", "Value": "../decoy"}]
    ec2.create_security_group(
        GroupName="odd", Description="odd", TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}]
    )
    assert cloud.json("down", "../decoy")["left"] == []
    assert in_account(ec2) == {} and (decoy / "run.json").read_text() == "{}"


def test_a_run_that_cannot_be_remembered_is_not_launched(cloud: Gpuctl) -> None:
    """Where a run's folder cannot be made, nothing is made in the account either."""
    runs = cloud.home / "state/runs"
    aside = runs.rename(runs.with_name("aside")) if runs.exists() else None
    runs.write_text("in the way")
    try:
        assert f"{runs}" in the_error(cloud(*LAUNCH, "--name", "forgotten", *COMMAND, code=1))
        assert in_account(cloud.ec2()) == {}
    finally:
        runs.unlink()
        if aside is not None:
            aside.rename(runs)


def test_a_down_that_fails_answers_in_json_all_the_same(cloud: Gpuctl) -> None:
    """Of one run as of several: why it is still there. The exit code and the line for a person stay what they are."""
    answer = cloud("down", "nobody", "--json", code=6)
    failed = [{"run": "nobody", "error": the_error(answer)}]
    assert json.loads(answer.out) == {"removed": [], "left": [], "failed": failed, "regions": [], "silent": []}


def test_a_run_of_another_aws_account_keeps_its_keys(cloud: Gpuctl) -> None:
    """These credentials see nothing of it. `down` says whose it is; only with its own can its outputs be had."""
    folder = RunFolder(cloud.home / "state/runs/theirs")
    folder.write_file("identity", "the run's key")
    folder.write(RunRecord(a_plan(run="theirs", cloud="embedded", owner="999999999999:user/bob")))
    refused = the_error(cloud("down", "theirs", "--discard", code=6))
    assert "launched in another" in refused and "use the credentials that it was launched with" in refused
    assert folder.identity.read_text() == "the run's key" and not folder.progress().down
    folder.write(RunRecord(a_plan(run="theirs", cloud="embedded", owner="123456789012:user/bob")))
    assert "nothing is left" in cloud("down", "theirs", "--discard").out
    folder.remove()


def test_a_run_file_that_is_damaged_is_named_and_stops_nothing_else(cloud: Gpuctl) -> None:
    """One unreadable run.json: its own commands say so and what to do, `ls` and `down --all` do their work."""
    folder = cloud.home / "state/runs/damaged"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"plan": {}')
    error = the_error(cloud("status", "damaged", code=1))
    assert "damaged/run.json" in error and "move that folder away" in error
    assert cloud.json("ls")["runs"] == []
    nothing = {"removed": [], "left": [], "failed": [], "regions": ["us-east-1"], "silent": []}
    assert cloud.json("down", "--all", "-y") == nothing
    (folder / "run.json").unlink()
    folder.rmdir()


@pytest.mark.parametrize("words", [("offers",), ("jobs", "--json"), ("--help",)], ids=" ".join)
def test_a_reader_that_goes_away_and_a_full_disk(cloud: Gpuctl, words: tuple[str, ...]) -> None:
    """`gpuctl … | head -1` is no error; an output that cannot be written is one line and exit code 1."""
    options: dict[str, Any] = {"cwd": cloud.folder, "env": cloud.environment, "stderr": subprocess.PIPE}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([GPUCTL, *words], stdout=writer, timeout=60, check=False, **options)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([GPUCTL, *words], stdout=full, timeout=60, check=False, **options)
    assert (done.returncode, done.stderr) == (1, b"gpuctl: cannot write: No space left on device\n")
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", GPUCTL, *words], timeout=60, check=False, **options)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("file", "text"),
    [("job.toml", 'requires-python = ">=3.99"\n'), ("pyproject.toml", '[project]\nrequires-python = ">=3.99"\n')],
)
def test_a_python_that_the_image_does_not_have_is_told_before_anything_is_made(
    cloud: Gpuctl, file: str, text: str
) -> None:
    """Whether job.toml says what is needed or the project's own pyproject.toml: one line, nothing in the account."""
    folder = cloud.folder / "newer"
    folder.mkdir(exist_ok=True)
    for name in ("job.toml", "pyproject.toml"):
        (folder / name).write_text(text if name == file else "")
    told = the_error(cloud("launch", "./newer", "-y", "--", "python", "train.py", code=2))
    assert "job newer needs Python >=3.99, but image Deep Learning Base" in told and "`requires-python`" in told
    assert "needs Python >=3.99" in the_error(cloud("local", "./newer", "--", "python", "train.py", code=2))
    assert in_account(cloud.ec2()) == {}
    (folder / "job.toml").write_text('requires-python = ">=3.9"\n')
    assert (
        cloud.json("launch", "./newer", "--dry-run", "--", "python", "x.py")["workload"]["requires_python"] == ">=3.9"
    )


def test_json_answers_have_the_documented_keys(cloud: Gpuctl) -> None:
    """`offers`, `jobs`, `ls` and a dry run answer with one document of the documented keys and nothing else."""
    offer = cloud.json("offers")["offers"][0]
    assert list(offer) == ["instance_type", "gpu", "gpus", "zone", "market", "price_usd_per_hour"]
    assert isinstance(offer["price_usd_per_hour"], float) and offer["market"] == "spot"
    job = cloud.json("jobs")["jobs"][0]
    assert list(job) == ["name", "summary", "command", "presets"]
    assert cloud.json("ls")["runs"] == []
    plan = cloud.json(*LAUNCH, "--dry-run", "--name", "dry", *COMMAND)
    assert plan["run"] == "dry" and plan["workload"]["command"] == ["python", "train.py"]
    assert plan["attempts"][0]["region"] == "us-east-1" and plan["lease"]["ends"].endswith("Z")
    assert cloud.json("ls")["runs"] == [] and not (cloud.home / "state/runs/dry").exists()
    assert cloud("status", "no-such-run", "--json", code=6).out == ""
