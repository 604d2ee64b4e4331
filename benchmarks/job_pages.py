"""Train the packaged jobs anew and put their pictures and reports into their pages, `docs/jobs`.

    python -m benchmarks.job_pages                  # every job, its laptop preset: up to a quarter of an hour each
    python -m benchmarks.job_pages digits gan       # these two
    python -m benchmarks.job_pages digits=outputs   # from a run that is there already

A page `docs/jobs/NAME.md` says which of the run's files it shows: a picture by its link `img/NAME/PICTURE`, a text
between `<!-- FILE -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "jobs"


def regenerate(job: str) -> None:
    """Run the job as its reader would, in a folder of its own, and take over what its page shows."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", f"jobs.{job}.train", "--preset", "laptop", "--outputs", folder], cwd=ROOT, check=True
        )
        take_over(job, Path(folder))


def take_over(job: str, outputs: Path) -> None:
    """Copy the pictures that the page links, and put the texts between their marks."""
    page = PAGES / f"{job}.md"
    text = page.read_text()
    for picture in sorted(set(re.findall(rf"\(img/{job}/([\w.-]+)\)", text))):
        (PAGES / "img" / job).mkdir(parents=True, exist_ok=True)
        shutil.copy(outputs / picture, PAGES / "img" / job / picture)

    def shown(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n```\n{(outputs / match[1]).read_text().rstrip()}\n```\n<!-- end -->"

    page.write_text(re.sub(r"<!-- ([\w.-]+) -->\n.*?<!-- end -->", shown, text, flags=re.DOTALL))


def asked(word: str) -> tuple[str, Path | None]:
    """A job with a page, and the outputs of a run that is there already. Raises argparse.ArgumentTypeError."""
    job, _, folder = word.partition("=")
    if not (PAGES / f"{job}.md").is_file():
        raise argparse.ArgumentTypeError(f"{job} is no job with a page in docs/jobs")
    if folder and not (Path(folder) / "report.txt").is_file():
        raise argparse.ArgumentTypeError(f"{folder} has no report.txt: not the outputs of a finished run")
    return job, Path(folder) if folder else None


def main() -> None:
    """Make the pages that are asked for, else all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_pages", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("jobs", nargs="*", type=asked, metavar="JOB[=OUTPUTS]", help="these alone")
    every = [(path.stem, None) for path in sorted(PAGES.glob("*.md"))]
    for job, outputs in parser.parse_args().jobs or every:
        if outputs:
            take_over(job, outputs)
        else:
            regenerate(job)


if __name__ == "__main__":
    main()
