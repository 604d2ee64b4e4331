"""What a border once did not stand, each by the input that showed it."""

from __future__ import annotations

import io
import json
import time
from contextlib import ExitStack
from pathlib import Path

import found_on_disk
import pytest
import said_by_clouds
from fuzzing import Parser, Read
from said_by_hosts import Replayed, event

from gpuctl.core.errors import CloudError, GpuctlError, JobError
from gpuctl.core.job import parse_job, python_of_project
from gpuctl.core.losses.points import MOST_POINTS
from gpuctl.core.losses.sources import Losses
from gpuctl.core.python_version import is_specifier
from gpuctl.remote.manifest import MOST_FILES, ask_manifest
from gpuctl.remote.ssh_config import parse_ssh_config
from gpuctl.workflows.ignoring import Patterns
from provisioning.paths import read_json
from provisioning.protocol import Channel, PayloadError

ROWS = {one.name: one for one in (*found_on_disk.parsers(), *said_by_clouds.parsers())}


@pytest.fixture
def reading(tmp_path: Path):
    """`reading("job.toml")`: what reads that."""
    with ExitStack() as stack:

        def reader(name: str) -> Read:
            row: Parser = ROWS[name]
            return row.opened(tmp_path, stack)

        yield reader


def test_a_version_without_end_is_no_specifier() -> None:
    """A number of five thousand digits was taken, and the first comparison with it was an unexpected error."""
    assert not is_specifier(">=" + "9" * 5000) and not is_specifier(">=" + "9" * 300 + "9" * 4100)
    assert python_of_project(f'[project]\nrequires-python = ">={"9" * 5000}"') is None


def test_a_list_of_specifiers_is_not_compared_for_seconds() -> None:
    """Fifty thousand of them took ten seconds."""
    began = time.process_time()
    assert not is_specifier(",".join(f">={n}" for n in range(50_000)))
    assert time.process_time() - began < 1


@pytest.mark.parametrize("key", ["a" + ".a" * 9000, '"a b"' + ' . "\\"x"' * 9000, "x=1\n[" + "'a'." * 9000 + "a]\nb"])
def test_a_key_of_thousands_of_parts_is_refused_at_once(key: str) -> None:
    """A job.toml of twelve kilobytes took half a minute, one of a hundred would have taken hours."""
    began = time.process_time()
    with pytest.raises(JobError, match="too many parts"):
        parse_job(f"{key} = 1", source="job.toml", folder_name="x")
    assert time.process_time() - began < 2
    assert python_of_project(f"{key} = 1") is None


def test_a_jobs_error_is_a_line_that_fits_on_a_screen() -> None:
    """A key of a megabyte came back as an error of a megabyte."""
    for text in (
        "k" * 500_000 + " = 1",
        "name = '" + "n" * 500_000 + "'",
        "outputs.paths = ['/" + "p" * 500_000 + "']",
    ):
        with pytest.raises(JobError) as caught:
            parse_job(text, source="job.toml", folder_name="x")
        assert len(str(caught.value)) < 1000


def test_a_name_that_no_disk_takes_is_not_there(reading) -> None:
    """`-r` of a name of five thousand letters, or with a NUL, was an unexpected error; so was such a file's name."""
    read = reading("requirements.txt")
    for name in (b"x" * 5000, b"a\0b"):
        with pytest.raises(JobError, match="does not exist"):
            read(b"-r " + name + b"\n")


def test_a_jobs_name_of_a_file_that_no_disk_takes_is_told(reading) -> None:
    """In `requirements` and in `include`."""
    read = reading("job.toml")
    for text in (b"requirements = '%s'", b"include = ['%s']"):
        with pytest.raises(JobError):
            read(text % (b"x" * 5000))


@pytest.mark.parametrize(
    "program",
    [
        b"PRESETS = {[]: f()}",
        b"def _(add):\n    add()\nclass S:\n    a: int = option(1, 'x')\n",
        b"x = " + b"-" * 100_000 + b"1",
        b"x = " + b"(" * 100_000,
        b"class S:\n    a: int = option({[]: 1}, 'x')\n" + b"P = {'gpu': S()}\n",
        b"x = '\\d'\n",
    ],
)
def test_a_program_that_is_not_understood_has_no_options_that_are_known(reading, program: bytes) -> None:
    """Whatever its source does to Python's own parser: nothing raises, nothing is warned of."""
    source = b"from common.args import add\n" + program
    reading("a job's own program")(source)


def test_a_program_is_read_like_any_file_of_a_project(tmp_path: Path, reading) -> None:
    """One that leads out of the project, or that never ends, is not read."""
    read = reading("a job's own program")
    read(b"class S:\n    lr: int = option(1, 'x')\n")
    program = tmp_path / "package/project/train.py"
    program.unlink()
    program.symlink_to("/dev/zero")
    from gpuctl.workflows.job_options import check_words
    from gpuctl.workflows.jobs import load_job

    check_words(load_job(program.parent), ("--lr=3",))


@pytest.mark.parametrize("endpoint", ["http:", "http://[", "", "http://127.0.0.1:99999999", "http:///x", "x"])
def test_an_address_of_a_cloud_that_is_none_is_no_cloud(reading, endpoint: str) -> None:
    """A damaged cloud.json was an IndexError."""
    reading("cloud.json")(b'{"endpoint": "%s", "pid": 7, "started": 1, "state": "/", "key": "k"}' % endpoint.encode())


def test_a_host_without_a_name_or_with_no_port_is_left_out() -> None:
    """Of an ssh_config that was damaged."""
    whole = "Host a\nHostName 127.0.0.1\nPort 22\nUser u\n"
    damaged = "Host\nHostName 7\nPort 2\nUser I\n" + f"Host b\nHostName 7\nPort {'9' * 5000}\nUser u\n"
    assert [one.alias for one in parse_ssh_config(damaged + whole)] == ["a"]


@pytest.mark.parametrize("half", ["at", "power_off_at", "state"])
def test_half_a_character_makes_no_record_an_error(reading, half: str) -> None:
    """A lone surrogate where a time or a word stands; msgspec raises UnicodeEncodeError."""
    values = {"state": "running", "at": "2026-11-25T02:30:00Z", half: "\ud800"}
    reading("what is kept of a run")(json.dumps(values).encode())


def test_a_mark_nested_too_deeply_is_another_runs(reading) -> None:
    """A folder of outputs whose `gpuctl/run.json` cannot be read is nobody's to write into."""
    reading("the mark of a folder of outputs")(b"[" * 4000)


def test_what_is_nested_too_deeply_is_unreadable_on_a_host(tmp_path: Path) -> None:
    """In a file that the command may have written, and in a request."""
    (tmp_path / "exit.json").write_bytes(b"[" * 100_000)
    assert read_json(tmp_path / "exit.json") is None
    with pytest.raises(PayloadError):
        Channel(io.BytesIO(b"[" * 100_000), io.BytesIO()).read_request()


def test_numbers_that_are_none_end_no_state(reading) -> None:
    """In `exit.json`, which the command may have written."""
    for value in (b"1" + b"0" * 400, b"Infinity", b"NaN", b"-1e308"):
        reading("files of a run on its host")(b'{"ended": %s, "started": %s, "deadline": %s}' % (value, value, value))


@pytest.mark.parametrize("missing", ["instanceState", "instanceId", "launchTime", "instanceType", "key"])
def test_an_answer_without_its_parts_is_none(reading, missing: str) -> None:
    """Well-formed, of the right name, and not what EC2 answers: a KeyError once."""
    body = said_by_clouds.good("DescribeInstances").replace(missing.encode() + b">", b"other>")
    with pytest.raises(CloudError, match="not an answer from AWS"):
        reading("EC2's instances")(body)


@pytest.mark.parametrize(("row", "missing"), [("EC2's other resources", b"volumeId>"), ("EC2's subnets", b"vpcId>")])
def test_other_answers_without_their_parts_are_none(reading, row: str, missing: bytes) -> None:
    """The same for each list."""
    with pytest.raises(CloudError, match="not an answer from AWS"):
        reading(row)(ROWS[row].examples[0].replace(missing, b"other>"))


@pytest.mark.parametrize("product", ['"[1]"', '"{\\"terms\\": 1}"', '"{"', "1"])
def test_a_price_list_of_another_shape_is_none(reading, product: str) -> None:
    """The products are JSON within JSON."""
    with pytest.raises(CloudError, match="not an answer from AWS"):
        reading("the price list")(b'{"PriceList": [%s]}' % product.encode())


def test_what_a_web_server_calls_its_error_is_shown_and_not_obeyed(reading) -> None:
    """Its reason came as it was into the error's line."""
    with pytest.raises(GpuctlError) as caught:
        reading("a small answer over HTTP")(b"HTTP/1.1 500 \x1b]0;x\x07\x1b[2J\r\n\r\n")
    assert str(caught.value).isprintable()


def test_ignore_patterns_without_end_are_refused(tmp_path: Path) -> None:
    """A file as large as may be read took minutes."""
    with pytest.raises(JobError, match="200,000 lines"):
        Patterns(["a*b"] * 200_000, tmp_path / ".gpuctlignore")


def test_losses_without_end_fill_no_memory() -> None:
    """Of more points than are shown the first, the last and the extremes are kept; all of them where that is asked."""
    lines = b"".join(b"step %d: train loss %d.5, val loss %d.5\n" % (n, n % 7, n % 5) for n in range(3000))
    some, every = Losses(most=1000), Losses()
    for losses in (some, every):
        for at in range(0, len(lines), 4096):
            losses.log.feed(lines[at : at + 4096])
    assert len(every.points) == 6000 and 300 <= len(some.points) <= 1000 < MOST_POINTS
    assert (some.points[0], some.points[-1]) == (every.points[0], every.points[-1])


def test_more_outputs_than_there_is_memory_for_are_refused() -> None:
    """Each costs half a kilobyte, however short its name is."""
    lines = b"".join(b'{"event":"missing","path":"%d"}\n' % n for n in range(MOST_FILES // 100))
    host = Replayed({"manifest": (lines + event("manifest", state={}), b"")})
    from gpuctl.core.outputs import Wish

    assert len(ask_manifest(host, Wish(), tells_case=True).missing) == MOST_FILES // 100
    assert MOST_FILES <= 300_000
