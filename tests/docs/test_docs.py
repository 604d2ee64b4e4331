"""What the pages show is true of the tool: commands parse, links lead somewhere, the README stays short."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from doc_pages import CHECKOUT, PAGES, Shown, anchors, commands, links, name_of, words

from gpuctl.cli.main import COMMANDS, gpuctl

SHOWN = [shown for page in PAGES for shown in commands(page)]
LINKS = [shown for page in PAGES for shown in links(page)]
README = CHECKOUT / "README.md"


def parse(arguments: list[str]) -> None:
    """What click does with a command line, short of running the command. Raises its usage errors."""
    command: click.Command = gpuctl
    context = command.make_context("gpuctl", arguments)
    while isinstance(command, click.Group):
        first = context._protected_args if hasattr(context, "_protected_args") else context.protected_args
        left = [*first, *context.args]
        name, found, rest = command.resolve_command(context, left)
        assert name is not None and found is not None
        command, context = found, found.make_context(name, rest, parent=context)


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_every_command_that_is_shown_is_one(shown: Shown) -> None:
    """The real command line takes it: command, options, their values, how many words."""
    arguments = words(shown.text)
    try:
        parse(list(arguments))
    except click.exceptions.Exit as ended:
        assert ended.exit_code == 0 and {"--help", "-h", "--version"} & set(arguments)


def test_a_wrong_command_would_be_noticed() -> None:
    """Parsing refuses an unknown command, an unknown option, a missing word and a wrong value."""
    for wrong in ("lunch x", "ls --jsn", "pull", "launch x --max-hours soon", "cloud strat", "status a b"):
        with pytest.raises(click.UsageError):
            parse(words(f"gpuctl {wrong}"))


def test_pages_show_commands_at_all() -> None:
    """The README shows a whole run, and commands are found in code blocks and in running text."""
    first_words = {words(shown.text)[0] for shown in SHOWN if shown.page == "README.md"}
    assert {"launch", "watch", "pull", "down", "offers", "jobs", "local"} <= first_words


@pytest.mark.parametrize("shown", [link for link in LINKS if not urlsplit(link.text).scheme], ids=str)
def test_every_link_within_the_checkout_leads_somewhere(shown: Shown) -> None:
    """The file is there, and the heading in it where one is named."""
    page = CHECKOUT / shown.page
    path, _, anchor = shown.text.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), f"{target} is not there"
    assert CHECKOUT in target.parents
    if anchor:
        assert anchor in anchors(target)


@pytest.mark.parametrize("shown", [link for link in LINKS if urlsplit(link.text).scheme], ids=str)
def test_links_elsewhere_are_whole_and_encrypted(shown: Shown) -> None:
    """Other links are https, with a host's name."""
    url = urlsplit(shown.text)
    assert url.scheme == "https" and "." in url.netloc


def test_the_readme_is_short() -> None:
    """At most 150 lines; depth is in docs/."""
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_lists_every_command_and_no_other() -> None:
    """Its table of commands names the tool's, all of them."""
    _, _, table = README.read_text().partition("## Commands\n")
    table, _, _ = table.partition("\n## ")
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name.split()[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_that_are_shown_exist(page: Path) -> None:
    """`make demo` and the like are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:^ *|`)make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert shown <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_place_on_one_machine(page: Path) -> None:
    """No home folder, no checkout's path of whoever wrote it."""
    assert not re.search(r"(?<![\w~$.])/(?:home|root|Users|work)/", page.read_text())
