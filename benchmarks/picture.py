"""The README's pictures: a real launch and a real `gpuctl watch` on the embedded cloud, recorded from their terminal.

    python -m benchmarks.picture          # writes docs/img/launch.svg and docs/img/watch.svg

The host installs PyTorch where `make demo` has not done so before (its cache is used). One thing is put otherwise than
it was printed: where this checkout is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console

from benchmarks.bench_tools import embedded_cloud, run

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "img"
WIDTH, HEIGHT = 108, 30
TRAINING_S, WATCHED_S = 120, 105
RUN = "shakespeare"
_PAUSE_S = 0.1
"""Shorter than the time between two frames of a live view."""
_CONTROL = re.compile(r"\x1b\[(?P<number>\d*)(?P<what>[AK])|\x1b\[\?\d+[hl]|(?P<end>[\r\n])")


def main() -> None:
    """Launch, watch, draw."""
    program = str(Path(sys.executable).parent / "gpuctl")
    with embedded_cloud(ROOT / ".demo" / "cache") as cloud:
        environment = {k: v for k, v in cloud.environment.items() if k != "NO_COLOR" and not k.startswith("AWS_")}
        words = [
            "-d",
            "-y",
            "--",
            "--preset",
            "smoke",
            "--hidden",
            "128",
            "--steps",
            "5000",
            "--max-seconds",
            str(TRAINING_S),
        ]
        words += ["--threads", "1", "--eval-every", "100"]
        shown = ["gpuctl", "launch", "char_rnn", "--cloud", "embedded", "--name", RUN, *words]
        draw("launch", shown, record([program, *shown[1:]], environment))
        shown = ["gpuctl", "watch", RUN]
        draw("watch", shown, record([program, *shown[1:]], environment, seconds=WATCHED_S))
        run([program, "down", RUN, "-y", "--discard"], environment)


def record(words: Sequence[str], environment: Mapping[str, str], *, seconds: float = 600) -> list[str]:
    """The lines on the terminal, styles and all, when the program ends or after so long (it is then interrupted)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    colours = {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(words, env=colours, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    screen = Screen()
    screen.write(b"".join(_read(ours, until=time.monotonic() + seconds)).decode())
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    for _ in _read(ours, until=time.monotonic() + 60):
        pass
    os.close(ours)
    if process.wait(timeout=60):
        raise SystemExit("\n".join([*screen.lines(), f"{words}: exit code {process.returncode}"]))
    return screen.lines()


def _read(terminal: int, *, until: float) -> Iterator[bytes]:
    """What a program prints, to its end; or to the first pause after a moment, so that no frame is cut."""
    while True:
        ready, _, _ = select.select([terminal], [], [], max(_PAUSE_S, until - time.monotonic()))
        if not ready:
            return
        try:
            yield os.read(terminal, 1 << 16)
        except OSError:  # Linux's word for: nobody has the terminal open any more
            return
        if time.monotonic() >= until and not select.select([terminal], [], [], _PAUSE_S)[0]:
            return


class Screen:
    """As much of a terminal as rich uses: lines that are written whole, erased, and gone back to."""

    def __init__(self) -> None:
        self._lines = [""]
        self._row = 0

    def write(self, text: str) -> None:
        """What a program prints."""
        at = 0
        for control in _CONTROL.finditer(text):
            self._lines[self._row] += text[at : control.start()]
            at = control.end()
            if control["end"] == "\n":
                self._row += 1
                self._lines += [""] * (self._row + 1 - len(self._lines))
            elif control["what"] == "A":
                self._row = max(0, self._row - int(control["number"] or 1))
            elif control["what"] == "K":
                self._lines[self._row] = ""
        self._lines[self._row] += text[at:]

    def lines(self) -> list[str]:
        """What stands there, without empty lines at the end."""
        return "\n".join(self._lines).rstrip().split("\n")


def draw(name: str, words: Sequence[str], lines: Sequence[str]) -> None:
    """The command and what its terminal showed, as an SVG."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(f"$ {' '.join(words)}", style="bold", markup=False, highlight=False)
    for line in AnsiDecoder().decode("\n".join(lines).replace(str(ROOT), "~/gpuctl")):
        console.print(line, no_wrap=True, overflow="crop")
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(console.export_svg(title=f"gpuctl {words[1]}"))


if __name__ == "__main__":
    main()
