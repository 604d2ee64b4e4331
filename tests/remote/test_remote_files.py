"""What is made for a run on the laptop: keys, known_hosts, ssh_config, the payload, the workspace."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from remote_servers import Server

from gpuctl.core import uploads
from gpuctl.core.errors import GpuctlError, JobError, UsageError
from gpuctl.core.hosts import SSHTarget
from gpuctl.core.plan import Upload
from gpuctl.core.uploads import UploadContent
from gpuctl.remote.keys import generate_key
from gpuctl.remote.payload import build_payload, payload_hash
from gpuctl.remote.ssh_config import parse_ssh_config, render_known_hosts, render_ssh_config
from gpuctl.remote.upload import ToldReader, workspace_tar
from gpuctl.workflows.uploads import collect, project_root

TARGET = SSHTarget(alias="run-1", address="127.0.0.1", port=2222, user="ubuntu")


def test_keys_are_openssh_keys_and_never_the_same() -> None:
    """A new pair is read back by paramiko, its public half fits, and its private half is not in its repr."""
    pair = generate_key("gpuctl run-1")
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))
    kind, text, comment = pair.public.split(" ", 2)
    assert (kind, text, comment) == ("ssh-ed25519", key.get_base64(), "gpuctl run-1")
    assert pair.private.endswith("-----END OPENSSH PRIVATE KEY-----\n")
    assert pair.private not in repr(pair)
    assert generate_key("x").private != generate_key("x").private


def test_known_hosts_names_a_host_as_openssh_looks_for_it() -> None:
    """Port 22 is the bare address, any other in brackets, and the key's comment stays out."""
    targets = [TARGET, replace(TARGET, port=22), replace(TARGET, address="::1")]
    text = render_known_hosts(targets, "ssh-ed25519 AAAA comment")
    assert text.splitlines() == [
        "[127.0.0.1]:2222 ssh-ed25519 AAAA",
        "127.0.0.1 ssh-ed25519 AAAA",
        "[::1]:2222 ssh-ed25519 AAAA",
    ]


def test_the_ssh_config_says_what_the_code_does() -> None:
    """Each host has its block: its address, this key and no agent, this known_hosts and no other, its proxy command."""
    targets = [TARGET, replace(TARGET, alias="run-1-1", port=22, proxy_command="nc %h %p")]
    text = render_ssh_config(
        targets,
        identity_file=Path("/a b/id"),
        known_hosts_file=Path("/a b/known_hosts"),
    )
    config = paramiko.SSHConfig.from_text(text)
    one, two = config.lookup("run-1"), config.lookup("run-1-1")
    assert (one["hostname"], one["port"], one["user"]) == ("127.0.0.1", "2222", "ubuntu")
    assert (one["identitiesonly"], one["identityagent"], one["stricthostkeychecking"]) == ("yes", "none", "yes")
    assert one["userknownhostsfile"].strip('"') == "/a b/known_hosts"
    assert (one["globalknownhostsfile"], one["hostkeyalgorithms"]) == ("none", "ssh-ed25519")
    assert "proxycommand" not in one and two["proxycommand"].startswith("nc 127.0.0.1 22")
    assert config.lookup("other").get("port") is None
    assert parse_ssh_config(text) == targets
    assert parse_ssh_config("HostName x\nHost y\n  Port 22\n  User\nHost\n\x00") == []


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on PATH")
def test_what_the_user_has_for_every_host_is_not_added(tmp_path: Path) -> None:
    """Included above a `Host *`, the block says it all: no agent goes to a rented host, nothing stands between."""
    block = render_ssh_config([TARGET], identity_file=tmp_path / "id", known_hosts_file=tmp_path / "known")
    (tmp_path / "run").write_text(block)
    mine = {
        "ForwardAgent": "yes",
        "ForwardX11": "yes",
        "ProxyJump": "bastion.invalid",
        "RemoteCommand": "tmux attach",
        "PermitLocalCommand": "yes",
        "ControlMaster": "auto",
        "ControlPath": "/tmp/%C",
        "AddKeysToAgent": "yes",
        "StrictHostKeyChecking": "no",
    }
    lines = "".join(f"  {word} {value}\n" for word, value in mine.items())
    (tmp_path / "config").write_text(f"Include {tmp_path}/run\nHost *\n{lines}")
    asked = ["ssh", "-G", "-F", str(tmp_path / "config"), TARGET.alias]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
    found = dict(line.partition(" ")[::2] for line in said.splitlines())
    assert not {word for word, value in mine.items() if found.get(word.lower()) == value}
    assert found["hostname"] == TARGET.address and found["identityagent"] == "none"


@pytest.mark.prove
def test_openssh_reads_the_ssh_config_as_it_was_meant(server: Server, tmp_path: Path) -> None:
    """`ssh -F` reaches the host by name, with paths that hold spaces, quotes and `%`, and refuses another key."""
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("no ssh on PATH")
    folder = tmp_path / 'a "b" 100%d c'
    folder.mkdir()
    identity, known, config = folder / "id", folder / "known", folder / "config"
    identity.touch(mode=0o600)
    identity.write_text(server.identity.read_text())
    config.write_text(render_ssh_config([server.target], identity_file=identity, known_hosts_file=known))
    outcomes = []
    for public in (server.host_key.public, generate_key("other").public):
        known.write_text(render_known_hosts([server.target], public))
        words = [ssh, "-F", str(config), "run-1", "echo there"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        outcomes.append((done.returncode, done.stdout))
    assert outcomes == [(0, "there\n"), (255, "")]


def test_the_payload_is_one_program_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    """The zipapp runs `provisioning.__main__.main`, holds Python alone, and does not depend on times or order."""
    source = tmp_path / "somewhere"
    (source / "deep").mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "__main__.py").write_text(
        "def main():\n    from provisioning.deep import word\n    print(word)\n    return 3\n"
    )
    (source / "deep" / "__init__.py").write_text("word = 'here'\n")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "x.pyc").write_bytes(b"x")
    first = build_payload(source)
    os.utime(source / "__init__.py", (0, 0))
    assert build_payload(source) == first
    assert payload_hash(first) == payload_hash(build_payload(source))
    place = tmp_path / "host.pyz"
    place.write_bytes(first)
    assert set(zipfile.ZipFile(io.BytesIO(first)).namelist()) == {
        "__main__.py",
        "provisioning/__init__.py",
        "provisioning/__main__.py",
        "provisioning/deep/__init__.py",
    }
    done = subprocess.run([sys.executable, str(place)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "here\n")


def _put(folder: Path, *named: tuple[Path, str]) -> UploadContent:
    """What would go up of a project, and of what was named beside it."""
    put = [Upload(str(path), name) for path, name in named]
    return collect([Upload(str(folder), ".")], put, root=folder)


def _names(content: UploadContent) -> dict[str, bytes]:
    with workspace_tar(content, on_missing=pytest.fail) as packed, tarfile.open(fileobj=packed, mode="r:gz") as tar:
        return {m.name: b"-> " + m.linkname.encode() if m.issym() else _read(tar, m) for m in tar}


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_workspace_holds_the_code_and_nothing_that_stays_behind(tmp_path: Path) -> None:
    """Code, data, links within and empty folders go; what is made again, what tools leave and secrets do not."""
    project = tmp_path / "project"
    kept = ["train.py", "pkg/__init__.py", "pkg/outputs/reader.py", "pkg/build/x.py", "data/a\nb.txt", ".env.example"]
    gone = [".git/config", "pkg/__pycache__/a.pyc", "b.pyc", ".venv/bin/python", "outputs/model.pt", ".mypy_cache/x"]
    gone += ["wandb/x", "pkg/lightning_logs/x", "runs/x", "mlruns/x", "build/x", "dist/x", ".vscode/x", ".idea/x"]
    gone += [".env", "pkg/.env.local", "deep/id_ed25519", "server.pem", ".aws/credentials", "home/gpuctl/run.json"]
    for name in [*kept, *gone, "my-env/pyvenv.cfg", "my-env/lib/x.py"]:
        _write(project / name, name)
    for name in ("logs", "checkpoints/best"):
        (project / name).mkdir(parents=True)
    (project / "linked").symlink_to("pkg")
    (project / "link.txt").symlink_to("train.py")
    (project / "dangling").symlink_to("nowhere")
    (project / "pkg/round").symlink_to(project)
    (project / "innocent").symlink_to(".env")
    (project / "notes").symlink_to(".aws")
    os.mkfifo(project / "pipe")
    content = _put(project)
    found = _names(content)
    assert set(found) == {*kept, "deep", "logs", "checkpoints/best", "linked", "link.txt", "pkg/round"}
    assert (found["link.txt"], found["linked"], found["pkg/round"]) == (b"train.py", b"-> pkg", b"-> ..")
    left_out = {one.why: set(one.names) for one in content.summary.left_out}
    assert left_out[uploads.SECRET] == {
        *(".aws/", ".env", "deep/id_ed25519", "innocent", "notes", "pkg/.env.local", "server.pem"),
    }
    assert left_out[uploads.NOWHERE] == {"dangling"} and left_out[uploads.NO_FILE] == {"pipe"}
    assert left_out[uploads.DOWNLOADED] == {"home/"}
    assert {"outputs/", "build/", "wandb/", "pkg/lightning_logs/"} <= left_out[uploads.DEFAULT]
    assert {".git/", "__pycache__/", "my-env/", "*.pyc"} <= left_out[uploads.REGENERATED]


def test_an_ignore_file_adds_to_what_stays_behind_and_takes_from_it(tmp_path: Path) -> None:
    """`.gpuctlignore` has patterns as `.gitignore` does; `!` brings back what stays by default, never a secret."""
    for name in ("data/raw/a.bin", "data/small.csv", "build/lib.so", "notes.md", ".env", "x.py"):
        _write(tmp_path / name)
    _write(tmp_path / ".gpuctlignore", "data/raw\n*.md\n!build/\n!.env\n")
    content = _put(tmp_path)
    assert set(content.files) == {".gpuctlignore", "data/small.csv", "build/lib.so", "x.py"}
    assert [one.names for one in content.summary.left_out if one.why == uploads.IGNORED] == [("data/raw/", "notes.md")]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have UTF-8 names alone")
@pytest.mark.parametrize("ignored", ["", "*.bin\n"])
def test_a_name_that_is_no_utf_8_goes_up_and_is_shown_readable(tmp_path: Path, ignored: str) -> None:
    """Old archives unpack to such names: they reach the host byte by byte, and no pattern trips over them."""
    name = os.fsdecode(b"caf\xe9")
    _write(tmp_path / ".gpuctlignore", ignored)
    _write(tmp_path / name / "caf.txt", "x" * 100)
    _write(tmp_path / name / os.fsdecode(b"\xff.bin"))
    content = _put(tmp_path)
    assert f"{name}/caf.txt" in _names(content) and content.summary.largest == "caf\ufffd/caf.txt"
    shown = [one.names for one in content.summary.left_out if one.why == uploads.IGNORED]
    assert shown == [("caf\ufffd/\ufffd.bin",)] * bool(ignored)


@pytest.mark.parametrize("line", ["[z-a]", "[[:foo:]]", "!", "a\\"])
def test_a_pattern_that_is_none_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    """One line, whatever the matching library makes of it."""
    _write(tmp_path / ".gpuctlignore", f"data/\n{line}\n*.zip\n")
    with pytest.raises(JobError, match=r"\.gpuctlignore, line 2: .* is not a pattern"):
        _put(tmp_path)


def test_a_pattern_takes_no_longer_than_its_length_is_worth(tmp_path: Path) -> None:
    """A backtracking matcher would try every way to divide the name among the stars."""
    _write(tmp_path / ("a" * 200))
    _write(tmp_path / ".gpuctlignore", "*a" * 12 + "b\n")
    before = time.monotonic()
    assert len(_put(tmp_path).files) == 2 and time.monotonic() - before < 5


def test_an_ignore_file_is_a_small_file_of_the_project(tmp_path: Path) -> None:
    """No link has another file or an endless one read, no pipe is waited for."""
    project, patterns = tmp_path / "project", tmp_path / "project/.gpuctlignore"
    _write(project / "x.py")
    for target, says in ((_write(tmp_path / "other"), "is a link out of"), (Path("/dev/zero"), "is a link out of")):
        patterns.symlink_to(target)
        with pytest.raises(JobError, match=says):
            _put(project)
        patterns.unlink()
    os.mkfifo(patterns)
    with pytest.raises(JobError, match="it is not a file"):
        _put(project)
    patterns.unlink()
    _write(patterns, "#" * (1024**2 + 1))
    with pytest.raises(JobError, match="it is larger than 1 MiB"):
        _put(project)


def test_what_is_named_for_itself_goes(tmp_path: Path) -> None:
    """What `--put` names goes whatever it is called and wherever it leads, over what was there before."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    _write(project / "data.txt", "old")
    _write(outside / "blob", "weights")
    checkpoint = _write(project / "outputs" / "model.pt", "weights")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/model.bin").symlink_to("../outside/blob")
    (project / "hub").symlink_to(tmp_path / "hub")
    found = _names(
        _put(
            project,
            (checkpoint, "data.txt"),
            (project / "outputs", "jobs/common"),
            (_write(project / ".env", "K=V"), ".env"),
            (tmp_path / "hub", "hub"),
        )
    )
    weights = dict.fromkeys(("data.txt", "jobs/common/model.pt", "hub/model.bin"), b"weights")
    assert found == {**weights, ".env": b"K=V"}


def test_a_folder_that_is_named_is_merged_into_the_projects_own(tmp_path: Path) -> None:
    """The project's other files stay, the named one wins for one name, and what it brings is not called left out."""
    project, more = tmp_path / "project", tmp_path / "more"
    for name in ("data/a", "data/b", "data/deep/c", "outputs/x"):
        _write(project / name, "own")
    (project / "data/linked").symlink_to("deep")
    for name in ("b", "deep/d", "linked"):
        _write(more / name, "named")
    content = _put(project, (more, "data"), (more / "deep", "outputs"))
    own = dict.fromkeys(("data/a", "data/deep/c"), b"own")
    assert _names(content) == {
        **own,
        **dict.fromkeys(("data/b", "data/deep/d", "data/linked", "outputs/d"), b"named"),
    }
    assert content.summary.left_out == ()


@pytest.mark.parametrize("name", ["folder", "file/x", "link/x"])
def test_a_name_that_is_file_and_folder_at_once_is_refused(tmp_path: Path, name: str) -> None:
    """Before a host is paid for, which could not unpack it."""
    project = tmp_path / "project"
    _write(project / "folder/a")
    _write(project / "file")
    (project / "link").symlink_to("folder")
    with pytest.raises(UsageError, match=f"{name.split('/')[0]} in the workspace would be both a folder and a file"):
        _put(project, (_write(tmp_path / "more"), name))


@pytest.mark.parametrize("target", ["folder", "folder/file"])
def test_a_link_that_leads_out_of_the_project_is_refused_and_named(tmp_path: Path, target: str) -> None:
    """Neither a file nor a folder outside goes up unasked: the line says which link, where to, what to type."""
    project = tmp_path / "project"
    _write(tmp_path / "folder/file")
    _write(project / "x.py")
    (project / "pkg").mkdir()
    (project / "pkg/data").symlink_to(tmp_path / target)
    with pytest.raises(UsageError) as caught:
        _put(project)
    line = str(caught.value)
    assert f"uses files outside {project}: pkg/data (to {tmp_path / target})" in line
    assert f"--put {tmp_path / target}:pkg/data" in line and ".gpuctlignore" in line
    assert "pkg/data" in "".join(_put(project, (tmp_path / target, "pkg/data")).files)
    _write(project / ".gpuctlignore", "pkg/data\n")
    assert set(_put(project).files) == {".gpuctlignore", "x.py"}


def test_a_folder_that_is_named_keeps_its_secrets_and_its_links(tmp_path: Path) -> None:
    """`--put outputs` of a hostile clone brings up no key: only `--put` of that very file does."""
    project, key = tmp_path / "project", _write(tmp_path / ".ssh/id_ed25519")
    _write(project / "outputs/model.pt")
    _write(project / "outputs/.env")
    _write(tmp_path / "hub/blob")
    (tmp_path / "hub/inner.pt").symlink_to(key)
    (project / "outputs/settings").symlink_to(_write(project / "sub/.env"))
    content = _put(project, (project / "outputs", "outputs"), (tmp_path / "hub", "hub"))
    assert set(content.files) == {"outputs/model.pt", "hub/blob"}
    (project / "outputs/best.pt").symlink_to(key)
    with pytest.raises(UsageError, match=r"uses files outside .*outputs/best\.pt"):
        _put(project, (project / "outputs", "outputs"))
    assert set(_put(project, (key, "key")).files) == {"key"}


@pytest.mark.parametrize(("target", "says"), [(".ssh/work", "may hold secrets"), ("notes", "--put {}:data")])
def test_a_link_of_the_project_does_not_choose_what_is_named(tmp_path: Path, target: str, says: str) -> None:
    """A `--put` that a link leads elsewhere is refused; where that is no secret, it may be named itself."""
    project, real = tmp_path / "project", _write(tmp_path / target)
    project.mkdir()
    (project / "data").symlink_to(real)
    with pytest.raises(UsageError, match=says.format(real)):
        _put(project, (project / "data", "data"))


def test_no_refusal_tells_how_to_upload_a_secret(tmp_path: Path) -> None:
    """The key's path is named, and the one way that is offered is to leave it out."""
    project = tmp_path / "project"
    project.mkdir()
    for target in (".ssh/id_ed25519", ".ssh/work", ".config/gcloud/db"):
        (project / "data").symlink_to(_write(tmp_path / target))
        with pytest.raises(UsageError) as caught:
            _put(project)
        line = str(caught.value)
        assert f"(to {tmp_path / target}, which may hold secrets)" in line
        assert "--put" not in line and ".gpuctlignore" in line
        (project / "data").unlink()


def test_a_link_brings_up_nothing_that_stays_behind(tmp_path: Path) -> None:
    """What a link leads to is judged by its own place, unless a line brings the link itself back."""
    for name in (".git/config", ".git/HEAD", "runs/x/a", "raw/b/c", "home/gpuctl/run.json", "home/d", "env/pyvenv.cfg"):
        _write(tmp_path / name)
    _write(tmp_path / "env/lib/x")
    links = {"hist": ".git", "latest": "runs/x", "b": "raw/b", "run": "home/d", "lib": "env/lib", "head": ".git/HEAD"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    _write(tmp_path / ".gpuctlignore", "raw/\n")
    assert set(_put(tmp_path).files) == {".gpuctlignore"}
    _write(tmp_path / ".gpuctlignore", "!latest\n!.git/\n")
    content = _put(tmp_path)
    assert set(content.files) == {".gpuctlignore", "latest/a", "raw/b/c", ".git/HEAD", "head"}
    assert content.links == {"b": "raw/b", "hist": ".git"}


@pytest.mark.parametrize(
    "name",
    [
        *(".envrc", "prod.env", ".ENV", "ID_RSA", "Server.PEM", ".SSH/work", ".streamlit/secrets.toml", ".pgpass"),
        *(".dvc/config.local", "x.tfvars", "x.tfstate", ".config/gcloud/db", "store.jks", "pass.kdbx"),
        *(".git/config", ".git/modules/sub/config", ".hg/hgrc"),
    ],
)
def test_keys_and_passwords_stay_behind(tmp_path: Path, name: str) -> None:
    """Whatever the case of their letters, and whatever `.gpuctlignore` brings back."""
    _write(tmp_path / name)
    _write(tmp_path / ".gpuctlignore", "!.git/\n!.hg/\n!*\n")
    for other in ("template.env", "config.local", "secrets.toml", "config"):
        _write(tmp_path / other)
    content = _put(tmp_path)
    assert set(content.files) == {".gpuctlignore", "template.env", "config.local", "secrets.toml", "config"}
    assert uploads.SECRET in [one.why for one in content.summary.left_out]


def test_a_job_goes_up_whatever_its_own_folder_was_used_for(tmp_path: Path) -> None:
    """A virtualenv made in it, or a pull into it, is no reason to leave all of it out; nor of what was named."""
    for name in ("jobs/mine/pyvenv.cfg", "jobs/mine/gpuctl/run.json", "jobs/mine/x.py", "tool/pyvenv.cfg"):
        _write(tmp_path / name)
    job, tool = tmp_path / "jobs/mine", tmp_path / "tool"
    content = collect([Upload(str(job), "jobs/mine")], [Upload(str(tool), "tool")], root=tmp_path)
    assert set(content.files) == {"jobs/mine/pyvenv.cfg", "jobs/mine/x.py", "tool/pyvenv.cfg"}


def test_patterns_are_about_names_in_the_upload(tmp_path: Path) -> None:
    """Below a linked folder too, whose real place is elsewhere in the project."""
    for name in ("shared/a.zip", "shared/deep/b.zip", "shared/c"):
        _write(tmp_path / name)
    _write(tmp_path / "job/.gpuctlignore", "/data/deep/\ndata/*.zip\n")
    (tmp_path / "job/data").symlink_to("../shared")
    content = collect([Upload(str(tmp_path / "job"), ".")], [], root=tmp_path)
    assert set(content.files) == {".gpuctlignore", "data/c"}


def test_folders_that_link_to_each_other_are_walked_once(tmp_path: Path) -> None:
    """A hundred folders with ninety links each: a hundred folders and nine thousand links go up, at once."""
    for number in range(100):
        folder = tmp_path / f"d{number:03}"
        folder.mkdir()
        _write(folder / "x.txt")
        for other in range(90):
            (folder / f"to{other:02}").symlink_to(f"../d{other:03}")
    content = _put(tmp_path)
    assert (len(content.files), len(content.links)) == (100, 9000)
    assert content.links["d000/to01"] == "../d001"


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """A workspace packed twice is the same stream; its files have no owner, and may be run where they could."""
    script = _write(tmp_path / "a.sh")
    script.chmod(0o700)
    _write(tmp_path / "b.txt").chmod(0o600)
    with workspace_tar(_put(tmp_path), on_missing=pytest.fail) as first:
        one = first.read()
        first.seek(0)
        with tarfile.open(fileobj=first, mode="r:gz") as tar:
            modes = {member.name: (member.mode, member.uid, member.uname) for member in tar}
    time.sleep(1.1)  # gzip's own header would tell the second
    with workspace_tar(_put(tmp_path), on_missing=pytest.fail) as second:
        assert second.read() == one
    assert modes == {"a.sh": (0o755, 0, ""), "b.txt": (0o644, 0, "")}


def test_a_file_that_is_another_meanwhile_is_named_and_the_rest_goes(tmp_path: Path) -> None:
    """Between the plan and the upload minutes pass: only planned files go, and what has grown goes whole."""
    names = ["cut.txt", "folder/below.txt", "gone.txt", "link.txt", "pipe.txt"]
    files = {name: _write(tmp_path / "project" / name, "planned") for name in names}
    grown = _write(tmp_path / "project/grown.txt", "planned")
    content, missing = _put(tmp_path / "project"), list[str]()
    for path in files.values():
        path.unlink()
    files["cut.txt"].write_text("plan")
    files["folder/below.txt"].parent.rmdir()
    files["folder/below.txt"].parent.write_text("a file")
    files["link.txt"].symlink_to(_write(tmp_path / "secret", "no business of a host"))
    os.mkfifo(files["pipe.txt"])
    grown.write_text("planned and more")
    with workspace_tar(content, on_missing=missing.append) as packed, tarfile.open(fileobj=packed) as tar:
        assert {member.name: _read(tar, member) for member in tar} == {"grown.txt": b"planned and more"}
    assert missing == names


def test_a_folder_that_becomes_a_link_meanwhile_sends_nothing_from_where_it_leads(tmp_path: Path) -> None:
    """Not the last part of a path alone: any folder above a file may have been replaced. A link of the plan is none."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    for name in ("top/deep/data.txt", "own/data.txt"):
        _write(project / name, "planned")
    _write(outside / "deep/data.txt", "no business of a host")
    (tmp_path / "to-project").symlink_to(project)
    content, missing = _put(tmp_path / "to-project"), list[str]()
    (project / "top").rename(tmp_path / "aside")
    (project / "top").symlink_to(outside)
    with workspace_tar(content, on_missing=missing.append) as packed, tarfile.open(fileobj=packed) as tar:
        assert {member.name: _read(tar, member) for member in tar} == {"own/data.txt": b"planned"}
    assert missing == ["top/deep/data.txt"]


def test_what_grows_beyond_all_that_may_go_is_refused(tmp_path: Path) -> None:
    """Each file that grew counts, not the largest alone."""
    files = [_write(tmp_path / name, "planned") for name in ("a.log", "b.log")]
    content = _put(tmp_path)
    for file in files:
        os.truncate(file, 600 * 1024**2)
    with pytest.raises(GpuctlError, match=r"b\.log has grown to 0\.6 GB.*leave it out with \.gpuctlignore"):
        workspace_tar(content, on_missing=pytest.fail)


def test_a_file_that_is_cut_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    """Its size has been written by then: the rest is packed anew."""
    _write(tmp_path / "a.bin")
    cut = tmp_path / "b.bin"
    cut.touch()
    os.truncate(cut, 768 * 1024**2)
    content, missing = _put(tmp_path), list[str]()
    cutter = threading.Timer(0.3, os.truncate, (cut, 1))
    cutter.start()
    with workspace_tar(content, on_missing=missing.append) as packed, tarfile.open(fileobj=packed) as tar:
        assert tar.getnames() == ["a.bin"]
    cutter.join()
    assert missing == ["b.bin"]


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\0b"])
def test_a_name_outside_the_workspace_is_wrong_usage(tmp_path: Path, name: str) -> None:
    """A name that is absolute or leads out is refused before anything is packed."""
    with pytest.raises(UsageError):
        _put(tmp_path, (_write(tmp_path / "x"), name))


def test_what_is_not_there_or_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    """A file that is not there is named, and so is one that may not be read."""
    with pytest.raises(UsageError, match="nothing-here"):
        _put(tmp_path / "nothing-here")
    if os.getuid():
        _write(tmp_path / "locked").chmod(0)
        with pytest.raises(UsageError, match=r"locked cannot be read \(permission denied\)"):
            _put(tmp_path)


def test_too_much_is_refused_and_the_largest_named(tmp_path: Path) -> None:
    """More than 1 GiB is not sent: the error says how much it is, and which file is the largest."""
    _write(tmp_path / "small.txt")
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(1024**3 + 1)
    with pytest.raises(UsageError, match=r"1\.1 GB.*large\.bin"):
        _put(tmp_path)


def test_what_is_under_one_version_control_is_one_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may use its repository's other folders; without one, and in a home that is one, its own folder alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    job = tmp_path / "work/repository/jobs/mine"
    job.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    assert project_root(job) == job
    (tmp_path / "work/repository/.git").mkdir()
    assert project_root(job) == tmp_path / "work/repository"


def test_how_much_went_up_is_told(tmp_path: Path) -> None:
    """Whoever sends the workspace hears of each piece, up to all of it."""
    (tmp_path / "data").write_bytes(os.urandom(1000))
    told: list[tuple[int, int]] = []
    with workspace_tar(_put(tmp_path), on_missing=pytest.fail) as packed:
        reader = ToldReader(packed, on_read=lambda *how_far: told.append(how_far))
        sent = b"".join(iter(lambda: reader.read(100), b""))
    assert told[0] == (100, len(sent)) and told[-1] == (len(sent), len(sent))
