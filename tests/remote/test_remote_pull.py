"""Outputs come home whole and stay below DEST, whatever the host says and whatever lies in DEST."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from remote_servers import Relay, Server

from gpuctl.core.errors import GpuctlError, HostError, HostRefused, HostUnreachable, UsageError
from gpuctl.core.outputs import ASIDE, Pulled, RunMark
from gpuctl.remote.destination import Destination
from gpuctl.remote.pull import Progress, Transfer, pull_outputs

MakeRelay = Callable[..., Relay]

RECEIPT = """
if verb == "receipt":
    with open(os.path.expanduser("~/gpuctl/receipt"), "w") as file:
        json.dump(request, file)
    emit("receipt")
    sys.exit()
"""


def _program(server: Server, *, manifest: str, send: str) -> None:
    """A scripted payload: what it lists, what it sends; receipts are kept."""
    indent = lambda text: "".join(f"    {line.strip() and line}\n" for line in text.strip("\n").splitlines())  # noqa: E731
    server.program(f"{RECEIPT}\nif verb == 'manifest':\n{indent(manifest)}\nif verb == 'send':\n{indent(send)}\n")


def _receipt(server: Server) -> dict[str, object] | None:
    place = server.home / "gpuctl" / "receipt"
    return json.loads(place.read_text()) if place.exists() else None


def _tree(folder: Path) -> dict[str, bytes]:
    """What is in a folder: files with their content, links and others by what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = b"-> " + os.fsencode(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def _pull(server: Server, dest: Path, known: dict[str, Pulled] | None = None) -> Transfer:
    """A pull that waits for no file longer than it takes to ask again."""
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += 4.0

    with server.host() as host:
        return pull_outputs(host, dest, known or {}, pause=pause, clock=lambda: now[0])


def _left(result: Transfer) -> dict[str, str]:
    """What stayed on the host, and of what kind it is."""
    return {one.path: one.kind for one in result.left}


PLAIN = {
    "manifest": "for path, data in FILES.items(): listed(path, data)\nmanifested(len(FILES))",
    "send": """
with stream() as tar:
    for path in request["paths"]:
        packed(tar, path, FILES[path])
        tar.fileobj.flush() if hasattr(tar.fileobj, "flush") else None
        sent(path, FILES[path])
emit("done", sys.stderr, files=len(request["paths"]))
""",
}


def _plain(server: Server, files: dict[str, bytes]) -> None:
    place = server.home / "gpuctl" / "files"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(repr(files))
    load = 'FILES = eval(open(os.path.expanduser("~/gpuctl/files")).read())\n'
    _program(server, manifest=load + PLAIN["manifest"], send=load + PLAIN["send"])


def test_a_host_gets_no_receipt_for_a_pull_that_its_caller_does_not_take_for_all(
    server: Server, tmp_path: Path
) -> None:
    """What came is home; without a receipt the host does not end itself before somebody has looked for the rest."""
    _plain(server, {"gpuctl/log": b"epoch 1\n"})
    with server.host() as host:
        result = pull_outputs(host, tmp_path, {}, is_home=lambda result: False)
    assert result.complete
    assert _receipt(server) is None
    assert _tree(tmp_path) == {"gpuctl/log": b"epoch 1\n"}


def test_a_pull_brings_home_what_there_is_and_then_only_what_changed(server: Server, tmp_path: Path) -> None:
    """The first pull moves everything and leaves a receipt; the next moves what changed or is missing at home."""
    dest = tmp_path / "not" / "there yet"
    files = {"outputs/a.pt": b"weights", "outputs/deep/er/b.txt": b"", "gpuctl/log": b"epoch 1\n"}
    _plain(server, files)
    first = _pull(server, dest)
    assert _tree(dest) == files
    assert set(first.files) == set(files) and first.unchanged == 0 and first.complete
    assert (dest / "outputs/a.pt").stat().st_mtime_ns == 1_000_000_000
    receipt = _receipt(server)
    assert receipt is not None and (receipt["files"], receipt["bytes"]) == (3, 15)

    again = _pull(server, dest, dict(first.known))
    assert (again.files, again.unchanged, again.bytes_moved) == ((), 3, 0)

    files["outputs/a.pt"] = b"weights!"
    _plain(server, files)
    (dest / "gpuctl/log").unlink()
    third = _pull(server, dest, dict(again.known))
    assert set(third.files) == {"outputs/a.pt", "gpuctl/log"} and third.unchanged == 1
    assert _tree(dest) == files
    assert third.bytes_moved == 16


def test_a_pull_without_memory_finds_what_is_home(server: Server, tmp_path: Path) -> None:
    """What lies at home as it is on the host is not moved again, though nothing is known of it; what differs may be
    anybody's, and stays as it is."""
    _plain(server, {"a": b"1", "b": b"2"})
    _pull(server, tmp_path)
    (tmp_path / "b").write_bytes(b"mine")
    again = _pull(server, tmp_path)
    assert (again.files, again.unchanged) == ((), 1)
    assert again.known["a"] == Pulled(1, 1_000_000_000, 1, "")
    assert _left(again) == {"b": "home"} and not again.complete
    assert (tmp_path / "b").read_bytes() == b"mine"


def test_names_come_home_byte_for_byte(server: Server, tmp_path: Path) -> None:
    """Newlines, quotes, dashes, commands and bytes that are not UTF-8 stay what they are in a name."""
    names = [
        "a\nb",
        "-rf",
        "$(touch x)",
        "'\"\\",
        "\udcff\udc80",
        "caf\u00e9",
        " ",
        "x" * 255,
        "\x1b[2J",
        "d\n/\udcfee",
    ]
    _plain(server, {name: name.encode("utf-8", "surrogateescape") for name in names})
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {name: os.fsencode(name) for name in names}
    assert set(result.known) == set(names)


def test_names_that_lead_elsewhere_are_skipped_and_the_rest_comes(server: Server, tmp_path: Path) -> None:
    """Absolute names, names with `..` and other traps are told as left; the good file is home, without a receipt."""
    evil = ["/etc/evil", "../../evil", "a/../../evil", "", "a//b", "./a", "nul\0l", "\ud800", f"{ASIDE}/1"]
    _plain(server, {**dict.fromkeys(evil, b"evil"), "good": b"good"})
    dest = tmp_path / "x" / "dest"
    result = _pull(server, dest)
    assert result.files == ("good",)
    assert _left(result) == dict.fromkeys(evil, "name")
    assert _tree(tmp_path) == {"x/dest/good": b"good"}
    assert not result.complete and _receipt(server) is None


def test_what_was_not_asked_for_is_not_written(server: Server, tmp_path: Path) -> None:
    """Members that the manifest did not name, links, devices, folders and doubles in the stream change nothing."""
    _program(
        server,
        manifest='listed("good", b"good")\nlisted("link", b"")\nmanifested(2)',
        send="""
with stream() as tar:
    packed(tar, "/abs", b"evil"); sent("/abs", b"evil")
    packed(tar, "../up", b"evil" * 500_000); sent("../up", b"evil")
    packed(tar, "other", b"evil"); sent("other", b"evil")
    packed(tar, "link", b"", type=tarfile.SYMTYPE, linkname="/etc"); sent("link", b"")
    packed(tar, "link", b"", type=tarfile.LNKTYPE, linkname="good"); sent("link", b"")
    packed(tar, "good", b"", type=tarfile.DIRTYPE)
    packed(tar, "good", b"", type=tarfile.CHRTYPE)
    packed(tar, "good", b"good"); sent("good", b"good")
    packed(tar, "good", b"evil"); sent("good", b"evil")
""",
    )
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"good": b"good"}
    assert (result.files, result.incomplete) == (("good",), ("link",))
    assert not result.complete and _receipt(server) is None


def test_links_in_dest_lead_nowhere(server: Server, tmp_path: Path) -> None:
    """A folder that is a link is not written through, and what is one itself stays, its target untouched."""
    outside, dest = tmp_path / "outside", tmp_path / "dest"
    outside.mkdir()
    dest.mkdir()
    (outside / "precious").write_bytes(b"precious")
    (dest / "linked").symlink_to(outside)
    (dest / "precious").symlink_to(outside / "precious")
    (dest / "dangling").symlink_to(tmp_path / "made-by-a-pull")
    _plain(server, {"linked/x": b"1", "precious": b"2", "dangling/y": b"3", "ok": b"4"})
    result = _pull(server, dest)
    assert _tree(outside) == {"precious": b"precious"}
    assert not (tmp_path / "made-by-a-pull").exists()
    assert _tree(dest) == {
        "dangling": b"-> " + os.fsencode(tmp_path / "made-by-a-pull"),
        "linked": b"-> " + os.fsencode(outside),
        "ok": b"4",
        "precious": b"-> " + os.fsencode(outside / "precious"),
    }
    assert _left(result) == dict.fromkeys(("linked/x", "precious", "dangling/y"), "home")
    assert not result.complete and _receipt(server) is None


def test_dest_itself_may_be_a_link(server: Server, tmp_path: Path) -> None:
    """DEST is the user's own word: a link there is followed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "dest").symlink_to("real")
    _plain(server, {"a": b"1"})
    _pull(server, tmp_path / "dest")
    assert _tree(tmp_path / "real") == {"a": b"1"}


def test_what_stands_in_the_way_is_told(server: Server, tmp_path: Path) -> None:
    """A folder where a file should be and a file where a folder should be are named; nothing of them is lost."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_bytes(b"mine")
    (tmp_path / "b").write_bytes(b"mine")
    _plain(server, {"a": b"1", "b/c": b"2", "x" * 300: b"3", "ok": b"4"})
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"a/mine": b"mine", "b": b"mine", "ok": b"4"}
    assert set(_left(result)) == {"a", "b/c", "x" * 300}
    assert not result.complete


def test_a_file_that_cannot_be_named_here_is_left(server: Server, tmp_path: Path) -> None:
    """A name that this disk cannot hold is told, and without it not all is home."""
    _plain(server, {"x" * 300: b"1", "ok": b"2"})
    result = _pull(server, tmp_path)
    assert set(_left(result)) == {"x" * 300} and result.files == ("ok",)
    assert not result.complete and _receipt(server) is None


def test_what_the_host_skips_is_told_with_its_reason(server: Server, tmp_path: Path) -> None:
    """What a host leaves out is handed on, its reason made safe to show; what holds no data is no reason to wait."""
    _program(
        server,
        manifest="""
emit("skipped", path="big\\n", why="over\\x1b[2J 2 GB", kind="size", files=3, bytes=5)
emit("skipped", path="pipe", why="holds no data", kind="special", files=0, bytes=0)
emit("skipped", path="old payload", why="who knows")
emit("file", path="torn", size="many")
manifested(0)
""",
        send="sys.exit(1)",
    )
    result = _pull(server, tmp_path)
    assert result.skipped == (("pipe", "holds no data"),)
    assert [(one.path, one.why, one.files) for one in result.left] == [
        ("big\n", "over 2 GB", 3),
        ("old payload", "who knows", None),
        ("torn", "the host's entry for it cannot be read", None),
    ]
    assert not result.complete and _receipt(server) is None


@pytest.mark.parametrize(
    "lie",
    [
        'sent("a", b"good", whole=False)',
        'sent("a", b"goof")',
        'sent("b", b"good")',
        'emit("sent", sys.stderr, path="a", size="4", sha256=5, whole=True)',
        "pass",
    ],
)
def test_a_file_whose_word_does_not_fit_does_not_stand_at_home(server: Server, tmp_path: Path, lie: str) -> None:
    """Without a word that it came whole, size and checksum as received, a file is asked for again, then named."""
    _program(
        server,
        manifest='listed("a", b"good")\nmanifested(1)',
        send=f'with stream() as tar: packed(tar, "a", b"good")\n{lie}\nemit("done", sys.stderr)',
    )
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {}
    assert result.incomplete == ("a",) and not result.complete
    assert _receipt(server) is None


def test_a_file_that_is_being_written_is_waited_for(server: Server, tmp_path: Path) -> None:
    """A file that is not complete at first is asked for again until it is."""
    _program(
        server,
        manifest="""
count = len(os.listdir(os.path.expanduser("~/gpuctl")))
open(os.path.expanduser(f"~/gpuctl/{count}"), "w").close()
listed("a", b"ab", complete=count > 2)
listed("b", b"cd")
manifested(2)
""",
        send="""
with stream() as tar:
    for path in request["paths"]:
        data = {"a": b"ab", "b": b"cd"}[path]
        packed(tar, path, data); sent(path, data)
""",
    )
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"a": b"ab", "b": b"cd"}
    assert (result.files, result.incomplete, result.unchanged) == (("b", "a"), (), 0)
    assert result.complete


@pytest.mark.parametrize("ends", [True, False])
def test_a_process_that_may_write_more_is_waited_for(server: Server, tmp_path: Path, ends: bool) -> None:
    """What ends within seconds leaves a pull that is whole; what does not is named, and there is no receipt."""
    _program(
        server,
        manifest=f"""
mark = os.path.expanduser("~/gpuctl/asked")
if not (os.path.exists(mark) and {ends}):
    emit("skipped", path="process 812", kind="running", why="worker.py: it runs on", files=None, bytes=0)
open(mark, "w").close()
manifested(0)
""",
        send="pass",
    )
    result = _pull(server, tmp_path)
    assert (result.complete, _left(result)) == ((True, {}) if ends else (False, {"process 812": "running"}))
    assert (_receipt(server) is not None) is ends


def test_a_file_that_vanished_is_no_matter(server: Server, tmp_path: Path) -> None:
    """What was there for the manifest and is gone for the stream is neither home nor missing."""
    _program(
        server,
        manifest="""
mark = os.path.expanduser("~/gpuctl/listed")
if not os.path.exists(mark):
    listed("old", b"old")
open(mark, "w").close()
listed("new", b"new")
manifested(2)
""",
        send="""
with stream() as tar:
    packed(tar, "new", b"new"); sent("new", b"new")
""",
    )
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"new": b"new"}
    assert result.complete and result.incomplete == ()


def test_what_the_host_cannot_read_is_skipped_and_named(server: Server, tmp_path: Path) -> None:
    """A file that the host lists and twice cannot send is named with the host's reason, and not waited for."""
    _program(
        server,
        manifest='listed("a", b"a")\nlisted("secret", b"b")\nmanifested(2)',
        send="""
with stream() as tar:
    for path in request["paths"]:
        if path == "a":
            packed(tar, path, b"a"); sent(path, b"a")
        else:
            emit("skipped", sys.stderr, path=path, why="Permission denied")
""",
    )
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"a": b"a"}
    assert [(one.path, one.why, one.bytes) for one in result.left] == [("secret", "Permission denied", 1)]
    assert not result.complete and result.incomplete == ()


def test_a_cut_connection_leaves_only_whole_files(server: Server, tmp_path: Path, relay: MakeRelay) -> None:
    """A pull that is cut raises; every file at home is whole, nothing half is left, and the next one goes on."""
    files = {f"f{number:03}": bytes([number]) * 30_000 for number in range(100)}
    _plain(server, files)
    link = relay(server.port, cut_after=1_000_000)
    with server.host(target=server.through(link.port)) as host, pytest.raises(HostUnreachable):
        pull_outputs(host, tmp_path, {}, pause=lambda _: None, back_within_s=0)
    home = _tree(tmp_path)
    assert 10 < len(home) < 100
    assert all(files[name] == data for name, data in home.items())
    assert not (tmp_path / ASIDE).exists()
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == files
    assert result.unchanged == len(home) and len(result.files) == 100 - len(home)


def test_a_pull_goes_on_over_resets(server: Server, tmp_path: Path, relay: MakeRelay) -> None:
    """Each connection is reset after so many bytes: all comes home, each file once, but one that is longer."""
    files = {f"f{number:02}": bytes([number]) * 50_000 for number in range(12)}
    _plain(server, files)
    link = relay(server.port, reset_each=250_000)
    with server.host(target=server.through(link.port)) as host:
        result = pull_outputs(host, tmp_path, {}, pause=lambda _: None)
    assert _tree(tmp_path) == files
    assert sorted(result.files) == sorted(files) and result.complete
    before = link.resets
    assert before >= 2
    _plain(server, {"long": bytes(900_000)})
    with server.host(target=server.through(link.port)) as host, pytest.raises(HostUnreachable):
        pull_outputs(host, tmp_path / "other", {}, pause=lambda _: None)
    assert link.resets == before + 6
    assert _tree(tmp_path / "other") == {}


def test_ctrl_c_in_a_pull_leaves_nothing_half(server: Server, tmp_path: Path) -> None:
    """An interrupt in the middle of a file leaves whole files alone, and the connection usable."""
    _plain(server, {"a": b"1", "b": bytes(3_000_000)})

    def interrupt(progress: Progress) -> None:
        if progress.bytes > 1_000_000:
            raise KeyboardInterrupt

    with server.host() as host:
        with pytest.raises(KeyboardInterrupt):
            pull_outputs(host, tmp_path, {}, on_progress=interrupt)
        assert _tree(tmp_path) == {"a": b"1"}
        assert not (tmp_path / ASIDE).exists()
        assert pull_outputs(host, tmp_path, {}).files == ("b",)


def test_progress_counts_to_the_end(server: Server, tmp_path: Path) -> None:
    """Progress tells files and bytes of how many, and ends with all of them."""
    _plain(server, {"a": b"123", "b": bytes(1_000_000)})
    seen: list[Progress] = []
    with server.host() as host:
        pull_outputs(host, tmp_path, {}, on_progress=seen.append)
    assert seen[-1].bytes == seen[-1].of_bytes == 1_000_003
    assert seen[-1].files == seen[-1].of_files == 2
    assert [one.bytes for one in seen] == sorted(one.bytes for one in seen)


@pytest.mark.parametrize(
    "send",
    [
        'sys.stdout.write("this is no tar" * 1000)',
        "sys.stdout.buffer.write(os.urandom(100_000))\nsys.stdout.flush()\ntime.sleep(60)",
        "pass",
        # A file longer than its stream, and one whose size is past every disk.
        'tar = stream(); packed(tar, "a", b"good"); member = tarfile.TarInfo("b"); member.size = 2**60\n'
        "tar.addfile(member); sys.stdout.flush(); os._exit(0)",
        # A long chain of headers that hold more headers, and one header that does not end.
        'sys.stdout.buffer.write(tarfile.TarInfo.create_pax_global_header({"a": "b"}) * 5000)',
        'member = tarfile.TarInfo("a"); member.type = tarfile.XHDTYPE; member.size = 2**40\n'
        "sys.stdout.buffer.write(member.tobuf(tarfile.GNU_FORMAT))\n"
        'while True: sys.stdout.buffer.write(b"0" * 65536)',
    ],
)
def test_a_stream_that_is_none_is_an_error_in_bounded_time_and_memory(
    server: Server, tmp_path: Path, send: str
) -> None:
    """Junk in place of the stream, cut streams and endless headers end in one line, with nothing half at home."""
    _program(server, manifest='listed("a", b"good")\nmanifested(1)', send=send)
    before = _resident()
    began = time.monotonic()
    with pytest.raises(HostError, match="run-1"):
        _pull(server, tmp_path)
    assert time.monotonic() - began < 60
    assert _resident() - before < 64 * 1024 * 1024
    assert set(_tree(tmp_path)) <= {"a"}
    assert not (tmp_path / ASIDE).exists()


def test_what_the_host_refuses_to_send_is_told(server: Server, tmp_path: Path) -> None:
    """An error in place of the stream is told as the host said it."""
    _program(
        server,
        manifest='listed("a", b"good")\nmanifested(1)',
        send='emit("error", sys.stderr, message="the disk is gone", next=None)\nsys.exit(1)',
    )
    with pytest.raises(HostRefused, match="the disk is gone"):
        _pull(server, tmp_path)


def test_a_manifest_without_end_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that lists files for ever is stopped, before the laptop has stored them all."""
    from gpuctl.remote import manifest

    monkeypatch.setattr(manifest, "MOST_FILES", 2_000)
    _program(server, manifest='for n in range(10**9): listed(f"f{n}", b"")', send="pass")
    with pytest.raises(HostError, match="more than"):
        _pull(server, tmp_path)


def test_the_growing_log_comes_as_far_as_it_is(server: Server, tmp_path: Path) -> None:
    """A log that grew between manifest and stream, and while it was read, is home as far as it came."""
    _program(
        server,
        manifest='listed("gpuctl/log", b"one\\n")\nmanifested(1)',
        send="""
with stream() as tar:
    packed(tar, "gpuctl/log", b"one\\ntwo\\n", mtime=time.time()); sent("gpuctl/log", b"one\\ntwo\\n", whole=False)
""",
    )
    result = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"gpuctl/log": b"one\ntwo\n"}
    assert result.complete


def test_two_pulls_into_one_dest_do_not_meet(server: Server, tmp_path: Path) -> None:
    """A second pull into a DEST that is being pulled into is refused, the first is not disturbed."""
    _plain(server, {"a": bytes(500_000)})
    refused: list[BaseException] = []

    def second(progress: Progress) -> None:
        if not refused:
            try:
                _pull(server, tmp_path)
            except UsageError as error:
                refused.append(error)

    with server.host() as host:
        result = pull_outputs(host, tmp_path, {}, on_progress=second)
    assert len(refused) == 1 and result.files == ("a",)


def test_a_dest_that_cannot_be_written_is_told(server: Server, tmp_path: Path) -> None:
    """A DEST that is a file ends the pull in one line that names it."""
    (tmp_path / "dest").write_text("")
    _plain(server, {"a": b"1"})
    with pytest.raises(GpuctlError, match="dest cannot be written"):
        _pull(server, tmp_path / "dest")


def test_what_an_ended_pull_left_is_cleared(server: Server, tmp_path: Path) -> None:
    """Files that a killed pull left half written are gone after the next."""
    (tmp_path / ASIDE).mkdir()
    (tmp_path / ASIDE / "7").write_bytes(b"half")
    _plain(server, {"a": b"1"})
    _pull(server, tmp_path)
    assert _tree(tmp_path) == {"a": b"1"}
    assert not (tmp_path / ASIDE).exists()
    mode = stat.S_IMODE((tmp_path / "a").stat().st_mode)
    assert mode & 0o111 == 0


def test_a_large_file_takes_little_memory(server: Server, tmp_path: Path) -> None:
    """A file of 100 MB comes home in memory that does not depend on its size."""
    _program(
        server,
        manifest='emit("file", path="a", size=100_000_000, mtime_ns=10**9, inode=1, complete=True)\nmanifested(1)',
        send="""
member = tarfile.TarInfo("a")
member.size, member.mtime = 100_000_000, 1
sys.stdout.buffer.write(member.tobuf())
block, digest = bytes(1_000_000), hashlib.sha256()
for _ in range(100):
    sys.stdout.buffer.write(block)
    digest.update(block)
sys.stdout.buffer.write(bytes(-100_000_000 % 512 + 1024))
emit("sent", sys.stderr, path="a", size=100_000_000, sha256=digest.hexdigest(), whole=True)
""",
    )
    before, most = _resident(), [0]

    def look(progress: Progress) -> None:
        most[0] = max(most[0], _resident())

    with server.host() as host:
        result = pull_outputs(host, tmp_path, {}, on_progress=look)
    assert result.files == ("a",) and (tmp_path / "a").stat().st_size == 100_000_000
    assert most[0] - before < 64 * 1024 * 1024


def _resident() -> int:
    """This process's memory in bytes; where there is no /proc, the most it ever was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_times_that_no_clock_knows_and_zeros_that_take_no_room(server: Server, tmp_path: Path) -> None:
    """Before 1970 and after 2262 a file comes home all the same, and once; what is zero takes no room on the disk."""
    manifest = """
listed("old", b"old", mtime_ns=-10_000_000_000)
listed("late", b"late", mtime_ns=10**19)
listed("zeros", bytes(3_000_001))
manifested(3)
"""
    send = """
files = {"old": (b"old", -10), "late": (b"late", 1e10), "zeros": (bytes(3_000_001), 1)}
with stream() as tar:
    for path in request["paths"]:
        packed(tar, path, files[path][0], mtime=files[path][1]); sent(path, files[path][0])
"""
    _program(server, manifest=manifest, send=send)
    first = _pull(server, tmp_path)
    assert _tree(tmp_path) == {"old": b"old", "late": b"late", "zeros": bytes(3_000_001)} and first.complete
    assert (tmp_path / "zeros").stat().st_blocks * 512 < 1_500_000 or not _holds_holes(tmp_path)
    assert _pull(server, tmp_path, dict(first.known)).files == ()


def _holds_holes(folder: Path) -> bool:
    with (folder / "hole").open("wb") as file:
        file.truncate(10_000_000)
    return (folder / "hole").stat().st_blocks * 512 < 5_000_000


def test_links_to_what_is_home_are_links_at_home(server: Server, tmp_path: Path) -> None:
    """A link says at home where its target lies beside it, in words that are made here; any other is only told."""
    load = 'FILES = {"runs/3/epoch=3.ckpt": b"m"}\n'
    links = {
        "runs/last.ckpt": "runs/3/epoch=3.ckpt",
        "latest": "runs/3",
        "up": "../outside",
        "gone": "runs/4",
        "x/.git": "runs/3",
    }
    emit = "".join(f'emit("link", path={path!r}, to={to!r})\n' for path, to in links.items())
    _program(server, manifest=load + emit + PLAIN["manifest"], send=load + PLAIN["send"])
    first = _pull(server, tmp_path)
    assert {path: os.readlink(tmp_path / path) for path in ("runs/last.ckpt", "latest")} == {
        "runs/last.ckpt": "3/epoch=3.ckpt",
        "latest": "runs/3",
    }
    assert {name for name, _ in first.skipped} == {"up", "gone", "x/.git"} and first.complete
    assert not (tmp_path / "gone").is_symlink() and not (tmp_path / "x").exists()
    assert _pull(server, tmp_path, dict(first.known)).files == ()


def test_what_no_pull_of_the_run_brought_is_never_replaced(server: Server, tmp_path: Path) -> None:
    """In a folder that held something, the same names stay as they were and hidden ones are not made; `.git` and its
    kind are not made anywhere. What the run brought itself is replaced when it changes."""
    (tmp_path / "train.py").write_bytes(b"mine")
    evil = dict.fromkeys(("train.py", ".git/config", ".bashrc", "deep/.GIT/hooks/x", ".envrc"), b"evil")
    _plain(server, {**evil, "new.pt": b"1"})
    claims: list[Collection[str]] = []
    with server.host() as host:
        result = pull_outputs(
            host, tmp_path, {}, mark=RunMark("toy", "1"), on_claim=lambda names: claims.append(set(names))
        )
        assert set(_left(result)) == set(evil)
        assert _tree(tmp_path).keys() == {"train.py", "new.pt", "gpuctl/run.json"}
        assert (tmp_path / "train.py").read_bytes() == b"mine" and claims == [{"new.pt"}]
        _plain(server, {"new.pt": b"22"})
        again = pull_outputs(host, tmp_path, dict(result.known), mark=RunMark("toy", "1"))
        assert again.files == ("new.pt",) and again.complete
        _plain(server, {"new.pt": b"333"})
        # What was claimed and then killed is the run's, though nothing more is known of it.
        assert pull_outputs(host, tmp_path, {}, mark=RunMark("toy", "1"), claimed=["new.pt"]).files == ("new.pt",)


def test_no_repository_comes_home(server: Server, tmp_path: Path) -> None:
    """A bare repository, whose settings name commands that git runs, is none at home, wherever it lies."""
    files = {"repo/config": b"[core]", "repo/objects/x": b"", "repo/refs/x": b"", "repo/HEAD": b"ref: refs/heads/x\n"}
    load = f"FILES = {files!r}\n"
    link = 'emit("link", path="HEAD", to="repo/refs/x")\n'
    _program(server, manifest=load + link + PLAIN["manifest"], send=load + PLAIN["send"])
    result = _pull(server, tmp_path)
    assert _left(result) == {"repo/HEAD": "name"} and [name for name, _ in result.skipped] == ["HEAD"]
    assert _tree(tmp_path).keys() == files.keys() - {"repo/HEAD"}


def test_a_folder_of_another_run_is_refused_with_the_words_to_type(server: Server, tmp_path: Path) -> None:
    """DEST says whose outputs it holds: a run of the same name that is another is refused, and nothing is moved."""
    _plain(server, {"model.pt": b"first"})
    with server.host() as host:
        pull_outputs(host, tmp_path, {}, mark=RunMark("toy", "1"))
        _plain(server, {"model.pt": b"second"})
        with pytest.raises(UsageError) as refused:
            pull_outputs(host, tmp_path, {}, mark=RunMark("toy", "2"))
        assert f"gpuctl pull toy {tmp_path / 'toy'}" in str(refused.value)
        pull_outputs(host, tmp_path / "toy", {}, mark=RunMark("toy", "2"))
    assert (tmp_path / "model.pt").read_bytes() == b"first"
    assert (tmp_path / "toy/model.pt").read_bytes() == b"second"


def test_a_mark_that_cannot_be_read_belongs_to_somebody(server: Server, tmp_path: Path) -> None:
    """A damaged mark, or one that is a link, is another run's; a host cannot write one."""
    _plain(server, {"gpuctl/run.json": b"{}", "a": b"1"})
    with server.host() as host:
        (tmp_path / "gpuctl").mkdir()
        (tmp_path / "gpuctl/run.json").symlink_to("/dev/null")
        with pytest.raises(UsageError, match="another run"):
            pull_outputs(host, tmp_path, {}, mark=RunMark("toy", "1"))
        result = pull_outputs(host, tmp_path / "own", {}, mark=RunMark("toy", "1"))
    assert set(_left(result)) == {"gpuctl/run.json"} and result.files == ("a",)


def test_a_receipt_that_cannot_be_written_is_told_and_all_is_home(server: Server, tmp_path: Path) -> None:
    """A host with a full disk keeps no receipt; what came home is home."""
    refusing = 'if verb == "receipt":\n    emit("error", message="no space left", next=None)\n    sys.exit(1)\n'
    server.program(
        refusing
        + 'if verb == "manifest":\n    listed("a", b"good")\n    manifested(1)\n'
        + 'if verb == "send":\n    with stream() as tar: packed(tar, "a", b"good")\n    sent("a", b"good")\n'
    )
    result = _pull(server, tmp_path)
    assert result.complete and _tree(tmp_path) == {"a": b"good"}
    assert result.receipt_refused is not None and "no space left" in result.receipt_refused


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_all_is_on_the_disk_before_the_host_may_forget_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, small ones too and those of a pull that was cut off, and every folder that a name is new in."""
    _plain(server, {"config.json": b"{}", "a/deep/adapter.bin": b"x" * 100, "a/model.bin": b"m" * 2_000_000})
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        """The system's own, and what is known when it is called: the name, and whether the host has its receipt."""
        fsync(descriptor)
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append((name, _receipt(server) is None))

    dest = tmp_path / "new" / "home"
    names = ("config.json", "a/deep/adapter.bin", "a/model.bin", "a/deep", "a", ".", "..", "../..")
    expected = {(os.path.normpath(dest / name), True) for name in names}
    monkeypatch.setattr(os, "fsync", watched)
    known = _pull(server, dest).known
    assert expected <= set(synced) and _receipt(server) is not None
    (server.home / "gpuctl" / "receipt").unlink()
    synced.clear()
    assert _pull(server, dest, dict(known)).files == ()
    assert expected <= set(synced) and _receipt(server) is not None


def test_a_full_disk_at_home_is_told(tmp_path: Path) -> None:
    """A disk that is full ends the pull in one line that says so, and that the host keeps what it has."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with (
            Destination(tmp_path) as home,
            pytest.raises(GpuctlError, match="is full: not everything was downloaded, and the host is kept"),
            home.aside() as aside,
        ):
            os.dup2(full, aside.descriptor)
            aside.write(b"weights")
    finally:
        os.close(full)
    assert _tree(tmp_path) == {}


def test_a_path_that_matches_nothing_counts_where_the_command_ended_well(server: Server, tmp_path: Path) -> None:
    """A named path that nobody wrote leaves a run that succeeded incomplete; one that failed never got there."""
    for state in ("succeeded", "failed", "running"):
        told = f'emit("missing", path="*.ckpt")\nlisted("a", b"1")\nemit("manifest", state={{"state": {state!r}}})'
        _program(server, manifest=told, send='with stream() as tar: packed(tar, "a", b"1")\nsent("a", b"1")')
        result = _pull(server, tmp_path / state)
        assert result.missing == ("*.ckpt",)
        assert result.complete == (state != "succeeded") == (_receipt(server) is not None)
        (server.home / "gpuctl/receipt").unlink(missing_ok=True)
