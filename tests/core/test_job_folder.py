"""A job's folder as it is read: what its requirements name, how its files were saved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuctl.core.errors import JobError, UsageError
from gpuctl.workflows.jobs import find_job, load_job, with_requirements


def written(folder: Path, **files: str | bytes) -> Path:
    """A folder with these files, of which `__` in a name is a slash, and each is a `.txt`."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_included_requirements_are_named_by_their_place_in_the_workspace(tmp_path: Path) -> None:
    """However pip lets them be written, and whichever folder the file that names them lies in."""
    lines = (
        "-r more/a.txt\n-cb.txt\n--requirement=more/a.txt\n--constraint b.txt\n-r https://x.org/y.txt\ntorch  # it\n"
    )
    folder = written(tmp_path, requirements=lines, more__a="six", b="six<2", more__deep="-r a.txt\n-c ../b.txt")
    a, b = "-r more/a.txt", "-c b.txt"
    assert load_job(folder).requirements == (a, b, a, b, "-r https://x.org/y.txt", "torch")
    (folder / "job.toml").write_text('requirements = "more/deep.txt"')
    assert load_job(folder).requirements == (a, b)


@pytest.mark.parametrize(
    ("line", "says"),
    [("-r gone.txt", "gone.txt, which does not exist"), ("-r ../x.txt", "it is outside the job")],
)
def test_requirements_that_the_host_would_not_have_are_refused(tmp_path: Path, line: str, says: str) -> None:
    """Before a host is paid for."""
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(JobError, match=says):
        load_job(written(tmp_path / "job", requirements=line))


@pytest.mark.parametrize("name", ["job.toml", "requirements.txt", "pyproject.toml"])
def test_what_is_read_here_is_small_and_no_other_file(tmp_path: Path, name: str) -> None:
    """Neither a file outside the project nor an endless one is read, and no pipe is waited for."""
    (tmp_path / "outside").write_text('requires-python = "~=3.1"')
    folder = written(tmp_path / "job", more="")
    for target in ("/dev/zero", tmp_path / "outside"):
        (folder / name).symlink_to(target)
        _refused_or_passed_over(folder)
        (folder / name).unlink()
    os.mkfifo(folder / name)
    _refused_or_passed_over(folder)
    (folder / name).unlink()
    (folder / name).write_text("#" * (1024**2 + 1))
    _refused_or_passed_over(folder)


def _refused_or_passed_over(folder: Path) -> None:
    try:
        loaded = load_job(folder)
    except JobError as error:
        assert "\n" not in str(error)
    else:
        assert (loaded.requirements, loaded.requires_python) == ((), None)


def test_files_that_were_saved_on_windows_are_read(tmp_path: Path) -> None:
    """A byte order mark and carriage returns are no part of what they say."""
    (tmp_path / "job.toml").write_bytes(b'\xef\xbb\xbfcommand = "python x.py"\r\n')
    loaded = load_job(written(tmp_path, requirements=b"\xef\xbb\xbftorch\r\nsix\r\n"))
    assert (loaded.job.command, loaded.requirements) == (("python", "x.py"), ("torch", "six"))


UNREAD = {
    "setup.py": "",
    "environment.yml": "",
    "Pipfile": "",
    "uv.lock": "",
    "pyproject.toml": "[project]\ndependencies = ['torch']",
}


def test_files_that_say_what_to_install_and_are_not_read_are_known(tmp_path: Path) -> None:
    """Most projects have no requirements.txt, and would learn on a host that is paid for that nothing was installed."""
    for name, text in UNREAD.items():
        (tmp_path / name).write_text(text)
    assert {*load_job(tmp_path).unread} == {*UNREAD}
    assert {*with_requirements(load_job(tmp_path), [".[gpu]"]).unread} == {"environment.yml", "Pipfile", "uv.lock"}
    (tmp_path / "requirements.txt").write_text("-e .\n")
    assert {*load_job(tmp_path).unread} == {"environment.yml", "Pipfile", "uv.lock"}
    (tmp_path / "job.toml").write_text("requirements = ['torch']")
    assert load_job(tmp_path).unread == ()


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("[tool.ruff]\nline-length = 120", False),
        ("[project]\nname = 'x'", False),
        ("[project]\ndynamic = ['dependencies']", True),
        ("[tool.poetry.dependencies]\ntorch = '*'", True),
        ("project = 3\ntool = []", False),
    ],
)
def test_a_project_file_that_names_no_packages_is_not_told_of(tmp_path: Path, text: str, unread: bool) -> None:
    """A formatter's settings are nothing to install."""
    (tmp_path / "pyproject.toml").write_text(text)
    assert load_job(tmp_path).unread == (("pyproject.toml",) if unread else ())


NO_ADDRESSES = (
    "torch --index-url https://example.org/cpu",
    " --index-url https://example.org/cpu",
    "https://example.org -r /etc/passwd",
    "file:///home/me/x.whl",
    "x @ file:///home/me/x.whl",
)


def test_packages_named_beside_a_projects_own_are_checked(tmp_path: Path) -> None:
    """What pip would refuse on the host is refused here, and nothing outside of the project is named."""
    folder = written(tmp_path / "job", requirements="numpy\n")
    (folder / "lib").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / ".git").mkdir()  # of which the job is a part, and alone goes up
    words = ["torch>=2.4", "x[y]", "./lib", "lib/", ".", "git+https://x.org/y.git", "z @ https://x.org/z.whl"]
    assert with_requirements(load_job(folder), words).requirements == ("numpy", *words)
    for wrong in (
        "",
        "-r more.txt",
        "torch>=",
        "a b",
        "x\n-r y",
        "./gone",
        "../other",
        "/tmp",
        "~/lib",
        "lib/../..",
        *NO_ADDRESSES,
    ):
        with pytest.raises(UsageError, match="--requirement"):
            with_requirements(load_job(folder), [wrong])


def test_a_folder_that_is_called_as_a_packaged_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gan` is the packaged job, `./gan` and `gan/` the folder."""
    (tmp_path / "gan").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_job("gan").folder != tmp_path / "gan"
    assert find_job("./gan").folder == find_job("gan/").folder == tmp_path / "gan"
