"""`make demo`: what gpuctl is for, on a machine with no AWS account and no GPU, by commands that anyone could type.

It launches char-rnn on a spot host of the embedded cloud, shows its losses fall, prints a sample, brings the checkpoint
home, takes everything down, and fails if anything is left.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = CHECKOUT / ".demo"
OUTPUTS = HOME / "outputs"
RUN = "shakespeare"
STEPS = 2000
LIMIT_S = 180
"""Training ends after so many steps, or so many seconds: a twentieth of either shows the fall."""
SETTINGS = ("--hidden", "128", "--eval-every", "200", "--steps", str(STEPS), "--max-seconds", str(LIMIT_S))
LEAST_FALL = 0.5
"""By how many nats the validation loss must have fallen for the demo to have shown anything."""


def main() -> int:
    """Run the demo; 0 where everything was seen that it promises."""
    began = time.monotonic()
    for folder in (HOME / "state", OUTPUTS):
        shutil.rmtree(folder, ignore_errors=True)
    say("gpuctl's demo: a spot GPU host that is really a process on this machine; about three minutes")
    say("the host installs PyTorch once, about 200 to 900 MB; nothing is installed outside this checkout")
    try:
        return watch_it_train(began)
    finally:
        gpuctl("down", "--all", "-y", "--discard", quiet=True)
        gpuctl("cloud", "stop", quiet=True)


def watch_it_train(began: float) -> int:
    """The demo's steps."""
    launch = ("launch", "char_rnn", "--name", RUN, "-y", "--max-hours", "1", "--", "--preset", "laptop", *SETTINGS)
    if gpuctl(*launch):
        say("the launch failed: the reason is above")
        return 1
    points = [json.loads(line) for line in answer("metrics", RUN, "--json").splitlines()]
    if gpuctl("pull", RUN, str(OUTPUTS)):
        say("its outputs were not downloaded: the reason is above")
        return 1
    down = json.loads(answer("down", RUN, "-y", "--json"))
    runs = json.loads(answer("ls", "--json"))["runs"]
    code = gpuctl("cloud", "stop")
    sample = newest("**/samples/*.txt")
    say("\na sample of what it writes now:\n")
    print(indented(sample.read_text(errors="replace")[:700]))
    fell = tell_losses(points)
    say(f"the checkpoint is {newest('**/*.pt').relative_to(CHECKOUT)}")
    left = [*down["left"], *runs]
    say("nothing is left" if not left and not code else f"LEFT: {left}")
    say(f"it took {time.monotonic() - began:.0f} s. With an AWS account: gpuctl launch char_rnn, and it is a real GPU")
    shutil.rmtree(HOME / "state", ignore_errors=True)
    return 0 if fell and not left and not code else 1


def tell_losses(points: list[dict[str, Any]]) -> bool:
    """Tell the first and last loss of each split; whether validation's has fallen, and if not, why that may be."""
    fall = 0.0
    for split in ("train", "val"):
        losses = [p["loss"] for p in points if p["split"] == split and p["loss"] is not None]
        fall = losses[0] - losses[-1] if losses else 0.0
        if losses:
            say(f"{split:>5} loss  first {losses[0]:.3f}  last {losses[-1]:.3f} nats a character")
    step = max((p["step"] for p in points), default=0)
    if fall >= LEAST_FALL:
        return True
    if step < STEPS:
        say(f"this machine is too slow, or too busy, to show the losses fall: {LIMIT_S} s were enough for {step} of")
        say(f"{STEPS} steps. The rest of the demo worked; try again when this machine is less busy")
    else:
        say(f"the validation loss fell by {fall:.2f} in {step} steps, less than {LEAST_FALL}: please report it")
    return False


def gpuctl(*words: str, quiet: bool = False) -> int:
    """Run a command as a person would, and show it; its exit code."""
    if not quiet:
        say(f"\n$ gpuctl {' '.join(words)}")
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(command(words), env=environment(), stdout=output, stderr=output, check=False).returncode


def answer(*words: str) -> str:
    """What a command prints on standard output."""
    say(f"\n$ gpuctl {' '.join(words)}")
    return subprocess.run(command(words), env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def command(words: tuple[str, ...]) -> list[str]:
    """The gpuctl of this checkout's virtualenv."""
    return [str(Path(sys.executable).parent / "gpuctl"), *words]


def environment() -> dict[str, str]:
    """This shell's, with the embedded cloud chosen and everything of gpuctl's inside the checkout."""
    return {**os.environ, "GPUCTL_HOME": str(HOME), "GPUCTL_CLOUD": "embedded"}


def newest(pattern: str) -> Path:
    """The newest output that matches."""
    return max(OUTPUTS.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def indented(text: str) -> str:
    """The text, set off from what the demo itself says."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def say(text: str) -> None:
    """One line to the person who watches."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
