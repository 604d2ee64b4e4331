"""What a cloned repository has, what is in GPUCTL_HOME, and what the payload finds on a host."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

from fuzzing import Parser, Read, plain

from gpuctl.core.codec import dumps, parse, to_plain
from gpuctl.core.errors import GpuctlError, JobError
from gpuctl.core.hosts import SSHTarget
from gpuctl.core.losses.reader import LossReader
from gpuctl.core.plan import Upload
from gpuctl.core.python_version import refuse_python
from gpuctl.embedded_cloud import place
from gpuctl.embedded_cloud.host.boot import parse as parse_user_data
from gpuctl.remote.destination import read_mark
from gpuctl.remote.host import Host
from gpuctl.remote.keys import generate_key
from gpuctl.remote.ssh_config import parse_ssh_config, render_known_hosts, render_ssh_config
from gpuctl.state.paths import Paths
from gpuctl.state.records import Made, Progress, RunRecord, Seen
from gpuctl.state.runs import RunFolder
from gpuctl.web import is_loopback
from gpuctl.workflows.clouds import embedded_if_running
from gpuctl.workflows.job_options import check_words
from gpuctl.workflows.jobs import LoadedJob, is_path, load_job
from gpuctl.workflows.uploads import collect
from provisioning import paths as host_paths
from provisioning.patterns import Patterns
from provisioning.protocol import Channel, PayloadError
from provisioning.python_version import satisfies
from provisioning.state import describe, parse_gpus
from tests.plans import a_plan, an_attempt

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests/state/records/1"
SOME_NAMES = ("a.pt", "outputs/best.ckpt", "outputs/logs/1/x.txt", "data/train.csv", "é [1].txt")


def _project(folder: Path) -> Path:
    """A folder to which nothing but itself belongs."""
    project = folder / "package" / "project"
    (project / ".git").mkdir(parents=True)
    for name in ("common", "digits"):
        (folder / "package" / name).mkdir()
    return project


def _look_at_job(loaded: LoadedJob) -> None:
    job = loaded.job
    refuse_python(job.name, loaded.requires_python, "3.10", where="the image")
    if job.pattern:
        LossReader(job.pattern).feed(b"[1] loss 0.5\n" * 3)
    for patterns in (job.outputs or (), job.exclude, job.checkpoints):
        matched = Patterns(patterns)
        for name in SOME_NAMES:
            matched.match(name)
    for line in loaded.requirements:
        is_path(line)
    if loaded.requires_python:
        try:
            satisfies(loaded.requires_python, (3, 10, 1))
        except PayloadError as error:
            raise JobError(error.message) from error


def _job_of(name: str) -> object:
    """A job whose file of that name is what is tried."""

    def opened(folder: Path, stack: ExitStack) -> Read:
        project = _project(folder)

        def read(data: bytes) -> None:
            (project / name).write_bytes(data)
            _look_at_job(load_job(project))

        return read

    return opened


def _program(folder: Path, stack: ExitStack) -> Read:
    project = _project(folder)
    (project / "job.toml").write_text('command = "python -m train"')
    (project / "common").mkdir()

    def read(data: bytes) -> None:
        for path in ("train.py", "common/args.py"):
            (project / path).write_bytes(data)
        check_words(load_job(project), ("--preset", "gpu", "--lr=3"))

    return read


def _ignored(folder: Path, stack: ExitStack) -> Read:
    project = _project(folder)
    for name in SOME_NAMES:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()

    def read(data: bytes) -> None:
        (project / ".gpuctlignore").write_bytes(data)
        collect([Upload(str(project), ".")], [], root=project)

    return read


JOBS = (
    *(path.read_bytes() for path in sorted((ROOT / "jobs").glob("*/job.toml"))),
    b'command = ["python", "train.py"]\nrequirements = "../requirements.txt"\n'
    b'requires-python = ">=3.9,!=3.11.*,~=3.10"\n'
    b'include = ["common"]\n[outputs]\npaths = ["outputs", "./logs/**/*.txt", "[a-c]?.pt"]\nexclude = ["*.tmp"]\n'
    b"[metrics]\npattern = '\\[(?P<step>\\d+)\\] loss (?P<loss>\\S+)'\n[data]\nname = \"x\"\nsize = 3\n",
)
PROJECTS = (
    (ROOT / "pyproject.toml").read_bytes()[:3000],
    b'[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\npython = "^3.10"\n[project]\nrequires-python = ">=3.9"\n'
    b'dynamic = ["dependencies"]\n',
)
REQUIREMENTS = (
    b"torch>=2.4,<3 # why\n-r more.txt\n-c constraints.txt\n--index-url https://example.org/simple\n./lib[extra]\n",
    b"numpy==1.26.4 \\\n    --hash=sha256:aa\nmypkg @ git+https://example.org/x@main ; python_version < '3.12'\n-e .\n",
)
IGNORED = (
    b"# comment\n*.pyc\n/data/**\n!data/train.csv\n[a-c]*.tx[!x]\n\\#x\nlogs/\n**/cache/\n\\!important\ntrailing \\ \n",
    (ROOT / ".gitignore").read_bytes(),
)
PROGRAMS = tuple((ROOT / "jobs" / name).read_bytes() for name in ("char_rnn/train.py", "common/args.py"))

_MADE = a_plan(an_attempt())
RECORD = dumps({**to_plain(RunRecord(_MADE).header), **to_plain(RunRecord(_MADE))}).encode()
PROGRESS = dumps(
    Progress(True, asked="fleet", asked_at=1.5, made=(Made("instance", "i-1", "us-east-1"),), instance_ids=("i-1",))
).encode()
SEEN = dumps(Seen("running", datetime(2026, 11, 25, tzinfo=timezone.utc), why="x")).encode()


def _record(folder: Path, stack: ExitStack) -> Read:
    run = RunFolder(folder / "run-1")
    run.path.mkdir()

    def read(data: bytes) -> None:
        (run.path / "run.json").write_bytes(data)
        try:
            run.header()
        finally:
            record = run.read()
        assert record.current.best and record.begun
        parse(dumps(record))

    return read


def _kept(folder: Path, stack: ExitStack) -> Read:
    """What may be damaged without a run being lost."""
    run = RunFolder(folder / "run-1")
    (run.path / "hosts/0").mkdir(parents=True)
    (run.path / "run.json").write_bytes(RECORD)

    def read(data: bytes) -> None:
        for name in ("progress.json", "pulled.json", "hosts/0/seen.json"):
            (run.path / name).write_bytes(data)
        parse(dumps(run.progress()))
        parse(dumps(run.host(0).seen()))
        parse(dumps(run.pulled()))
        run.note(started=True)
        assert run.progress().started

    return read


def _cloud_json(folder: Path, stack: ExitStack) -> Read:
    """Nothing is asked of an address that is not this machine's."""
    paths = Paths(folder, folder / "cache")
    paths.cloud.mkdir()

    def read(data: bytes) -> None:
        (paths.cloud / "cloud.json").write_bytes(data)
        found = place.recorded(place.Place(paths.cloud))
        if found is not None and (is_loopback(found.endpoint) or "//" not in found.endpoint):
            embedded_if_running(paths)
            place.running(place.Place(paths.cloud))

    return read


TARGETS = (SSHTarget("run-1", "203.0.113.7", 22, "ubuntu"), SSHTarget("run-1-1", "127.0.0.1", 2222, "ubuntu"))
SSH_CONFIG = render_ssh_config(TARGETS, identity_file=Path("/x/id"), known_hosts_file=Path("/x/known")).encode()
KEYS = generate_key("caller")


def _ssh_config(data: bytes) -> None:
    for target in parse_ssh_config(data.decode("utf-8", "surrogateescape")):
        assert 0 <= target.port < 10**5


def _run_keys(folder: Path, stack: ExitStack) -> Read:
    """Nobody listens at that port: what is read is read before."""
    target = SSHTarget("run-1", "127.0.0.1", 9, "ubuntu")
    good = {"id": KEYS.private.encode(), "known": render_known_hosts([target], KEYS.public).encode()}

    def read(data: bytes) -> None:
        spoilt = "id" if b"PRIVATE" in data else "known"
        for name, content in {**good, spoilt: data}.items():
            (folder / name).write_bytes(content)
        with Host(target, identity_file=folder / "id", known_hosts_file=folder / "known") as host:
            try:
                host.connect(timeout_s=1)
            except GpuctlError:
                return

    return read


def _mark(folder: Path, stack: ExitStack) -> Read:
    (folder / "gpuctl").mkdir()

    def read(data: bytes) -> None:
        (folder / "gpuctl" / "run.json").write_bytes(data)
        assert read_mark(folder) is not None

    return read


def _host_files(folder: Path, stack: ExitStack) -> Read:
    """All that a state is told from may be the command's own doing."""

    def read(data: bytes) -> None:
        shutil.rmtree(folder / "gpuctl", ignore_errors=True)
        there = host_paths.Paths(folder / "gpuctl", folder / "envs")
        for path in (
            there.state,
            there.exit,
            there.spec,
            there.receipt,
            there.provisioned,
            there.power_off_at,
            there.lock,
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        json.dumps(describe(there))
        describe(there.last_begun())
        parse_gpus(data.decode("utf-8", "replace"))

    return read


def _request(data: bytes) -> None:
    request = Channel(io.BytesIO(data), io.BytesIO()).read_request()
    for ask in (request.text, request.number, request.texts, request.mapping, request.flag):
        try:
            ask("run")
        except PayloadError:
            continue


HOST_FILES = (
    b'{"state": "failed", "exit_code": 3, "why": "x", "ended": 1700000000.5, "started": 1.7e9, "boot": "b"}',
    b'{"run": "toy", "deadline": 1800000000.0, "attempt": 2, "idle_s": 1800, "command": ["python"]}',
    b"NVIDIA L4, 3, 120, 23034\nNVIDIA L4, [N/A], 1, 2\n",
    b"1700000000\n",
)
USER_DATA = (
    b'#cloud-config\n{"bootcmd": [["sh", "-c", "/sbin/poweroff"], "echo x"], "ssh_deletekeys": true,'
    b' "ssh_pwauth": false,"ssh_keys": {"ed25519_private": "a", "ed25519_public": "b"},'
    b' "ssh_authorized_keys": ["ssh-ed25519 AAAA x"]}\n',
)


def _user_data(data: bytes) -> None:
    parse_user_data(data.decode("utf-8", "replace"))


def parsers() -> tuple[Parser, ...]:
    """One row a border."""
    record = (RECORDED / "run.json").read_bytes()
    keeping = (PROGRESS, SEEN, *((RECORDED / f"{name}.json").read_bytes() for name in ("progress", "pulled", "seen")))
    cloud = (
        b'{"endpoint": "http://127.0.0.1:9", "pid": 7, "started": 1.7e9, "state": "/x", "key": "k", "lost": ["i-1"]}',
    )
    keys = (KEYS.private.encode(), render_known_hosts(TARGETS, KEYS.public).encode())
    mark = (b'{"run": "toy", "id": "0123456789abcdef", "own": true}\n',)
    asked = (b'{"schema": 1, "run": "toy", "gpus": false, "paths": ["a"]}\n',)
    return (
        Parser("job.toml", JOBS, _job_of("job.toml")),
        Parser("pyproject.toml", PROJECTS, _job_of("pyproject.toml")),
        Parser("requirements.txt", REQUIREMENTS, _job_of("requirements.txt")),
        Parser("a job's own program", PROGRAMS, _program),
        Parser(".gpuctlignore", IGNORED, _ignored),
        Parser("run.json", (record, RECORD), _record),
        Parser("what is kept of a run", keeping, _kept, ()),
        Parser("cloud.json", cloud, _cloud_json, ()),
        Parser("ssh_config", (SSH_CONFIG,), plain(_ssh_config), ()),
        Parser("a run's keys", keys, _run_keys),
        Parser("the mark of a folder of outputs", mark, _mark, ()),
        Parser("files of a run on its host", HOST_FILES, _host_files, ()),
        Parser("a request to the payload", asked, plain(_request), (PayloadError,)),
        Parser("user-data", USER_DATA, plain(_user_data), ()),
    )
