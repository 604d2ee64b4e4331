"""A walk through the README on small terminals, recorded as what stands on their screens.

    python -m benchmarks.terminal          # writes docs/terminal.md

Every screen is what tmux shows after real commands on the embedded cloud. The walk fails where a line that matters is
not on its screen whole.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench_tools import embedded_cloud

PAGE = Path(__file__).parents[1] / "docs" / "terminal.md"
SIZES = ((80, 24), (60, 20))
PROMPT = "$ "
TRAIN = """
import os, sys, time
if sys.argv[1:]:
    sys.exit(f"train.py: no such option: {sys.argv[1]}")
for step in range(1, 10_000):
    print(f"step {step}  epoch {step / 400:.2f}  train loss {40 / step ** 1.5:.4f}", end="")
    print(f"  val loss {50 / step ** 1.4:.4f}" if step % 10 == 0 else "", flush=True)
    if step % 100 == 0:
        with open("model.pt", "wb") as file:
            file.write(os.urandom(3_000_000))
    time.sleep(0.1)
"""
"""A training whose losses fall over decades, and whose checkpoint takes a moment to download."""


class LineMissing(Exception):
    """A line that matters is not on the screen."""


@dataclass
class Terminal:
    """A shell in a tmux window of a fixed size, and the screens of it that were kept."""

    tmux: list[str]
    width: int
    height: int
    kept: list[tuple[str, str]] = field(default_factory=list)

    def keys(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._tmux("send-keys", "-t", "walk", *keys)

    def resize(self, width: int, height: int) -> None:
        """Make the window smaller or larger."""
        self._tmux("resize-window", "-t", "walk", "-x", str(width), "-y", str(height))

    def type(self, command: str, *, see: str = "") -> None:
        """Type a command on an empty screen, and wait until its end, or for what is to be seen."""
        self._tmux("send-keys", "-t", "walk", "C-l")
        self._wait(lambda: self.screen().strip() == PROMPT.strip(), "an empty screen")
        self._tmux("send-keys", "-t", "walk", "-l", command)
        self.keys("Enter")
        time.sleep(0.3)
        self.see(see) if see else self.ended()

    def press(self, *keys: str) -> None:
        """Press keys that end what runs, and wait until it has."""
        self.keys(*keys)
        self.ended()

    def ended(self) -> None:
        """Wait for the shell's prompt."""
        self._wait(lambda: self.screen().rstrip().split("\n")[-1].strip() == PROMPT.strip(), "the prompt")

    def see(self, pattern: str) -> None:
        """Wait until a line of the screen matches."""
        self._wait(lambda: re.search(pattern, self.screen(), re.MULTILINE) is not None, pattern)

    def keep(self, title: str, *patterns: str) -> None:
        """Keep the screen; each pattern must be on it. Raises LineMissing."""
        screen = self.screen()
        self.kept.append((title, screen))
        for pattern in patterns:
            if not re.search(pattern, screen, re.MULTILINE):
                raise LineMissing(f"{self.width}×{self.height}, {title}: no {pattern!r} on the screen:\n{screen}")

    def screen(self) -> str:
        """What stands on the screen now."""
        return self._tmux("capture-pane", "-t", "walk", "-p").rstrip("\n")

    def _wait(self, condition: Callable[[], bool], what: str, within_s: float = 400) -> None:
        end = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > end:
                raise LineMissing(f"{self.width}×{self.height}: no {what!r} within {within_s:.0f} s:\n{self.screen()}")
            time.sleep(0.05)

    def _tmux(self, *words: str) -> str:
        return subprocess.run([*self.tmux, *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def terminal(folder: Path, environment: Mapping[str, str], width: int, height: int) -> Iterator[Terminal]:
    """A terminal of this size in this folder; its tmux server ends with it."""
    tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
    keep = {**environment, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    shell = shlex.join(["env", "-u", "COLUMNS", "-u", "LINES", f"PS1={PROMPT}", "bash", "--norc", "--noprofile"])
    size = ["-x", str(width), "-y", str(height)]
    try:
        words = [*tmux, "-u", "new-session", "-d", "-s", "walk", *size, shell]
        subprocess.run(words, check=True, env=keep, cwd=folder)
        subprocess.run([*tmux, "set-option", "-g", "status", "off"], check=True)
        yield Terminal(tmux, width, height)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)


def walk(shell: Terminal) -> None:
    """From an offer to nothing left. Raises LineMissing."""
    shell.type("gpuctl launch char_rnn --dry-run")
    shell.keep("The plan of a packaged job", r"costs +\$")
    launch_it(shell)
    watch_it(shell)
    bring_it_home(shell)
    undo(shell)
    fail(shell)


def launch_it(shell: Terminal) -> None:
    """The plan, its question, the launch."""
    shell.type("gpuctl launch ./project --name mine --budget 1 -d -- python train.py", see=r"\[Y/n\]")
    shell.keep("What a launch asks", r"\[Y/n\]")
    shell.press("y", "Enter")
    shell.keep("Launched", "gpuctl down mine")
    shell.type("gpuctl ls")
    shell.keep("Its row", "mine +running")
    shell.type("gpuctl status mine")
    shell.keep("Its status", "state +running")


def watch_it(shell: Terminal) -> None:
    """The live view: resized, and left by q."""
    width, height = shell.width, shell.height
    shell.type("gpuctl watch mine", see="train .*step ..+")
    shell.keep("watch", "^mine  running", "train .*step")
    shell.resize(width - 20, height - 6)
    time.sleep(1)
    shell.keep("watch, made smaller", "^mine  running", "train .*step")
    shell.resize(width, height)
    time.sleep(1)
    shell.keep("watch, as large as before", "^mine  running", "train .*step")
    shell.press("q")
    shell.keep("watch, left by q", "mine keeps running")
    shell.type("gpuctl tail mine -n 3", see="step")
    shell.press("C-c")
    shell.keep("tail, left by Ctrl-C", "mine keeps running")


def bring_it_home(shell: Terminal) -> None:
    """Download, take down."""
    shell.type("gpuctl stop mine")
    shell.type("gpuctl pull mine ./home")
    shell.keep("pull", "Downloaded [0-9]+ files")
    shell.type("gpuctl down mine", see=r"\[Y/n\]")
    shell.press("y", "Enter")
    shell.keep("down", "mine: nothing is left")


def undo(shell: Terminal) -> None:
    """Ctrl-C before training has started."""
    shell.type("gpuctl launch ./project --name undone -y -- python train.py", see="✓ (fleet|acquire|host)|boot")
    shell.press("C-c")
    shell.keep("A launch undone by Ctrl-C", "✓ undo")


def fail(shell: Terminal) -> None:
    """A command that fails, a name that is not there."""
    shell.type("gpuctl launch ./project --name broken -y -- python train.py --wrong; echo exit code $?")
    shell.keep("A command that fails", "exit code 3")
    shell.type("gpuctl down broken -y")
    shell.type("gpuctl status nothing; echo exit code $?")
    shell.keep("A run that is not there", "gpuctl: ", "exit code 6")


def main(page: Path = PAGE) -> None:
    """Walk on each terminal, and write the page."""
    lines = [
        "# gpuctl on small terminals",
        "",
        "Made by `python -m benchmarks.terminal`: what stands on the screen after each command, on the embedded cloud.",
    ]
    for width, height in SIZES:
        folder = Path(tempfile.mkdtemp(prefix="gw"))
        try:
            (folder / "project").mkdir()
            (folder / "project" / "train.py").write_text(TRAIN)
            with embedded_cloud() as cloud:
                environment = {k: v for k, v in cloud.environment.items() if not k.startswith("AWS_")}
                environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
                with terminal(folder, environment, width, height) as shell:
                    try:
                        walk(shell)
                    finally:
                        lines += [f"\n## {width} × {height}"]
                        for title, screen in shell.kept:
                            text = screen.replace(str(cloud.paths.state.parent), "~/.gpuctl").replace(str(folder), "~")
                            lines += [f"\n### {title}\n", "```", text, "```"]
                        page.write_text("\n".join(lines).replace(str(PAGE.parents[1]), "~/gpuctl") + "\n")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
