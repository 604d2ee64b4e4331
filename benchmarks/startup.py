"""How long a person waits for `gpuctl --help` and for Tab, beside what Python itself takes."""

from __future__ import annotations

import os

from benchmarks.bench_tools import Part, Tool, medians, milliseconds, run

LIMIT = 6.0
"""`gpuctl --help` may take at most so many times `python -c pass`."""


def measure(tool: Tool, rounds: int) -> Part:
    """Whole processes, interleaved."""

    def complete(line: str) -> dict[str, str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return {**os.environ, "_GPUCTL_COMPLETE": "bash_complete", **words}

    took = medians(
        rounds,
        {
            "`python -c pass`": lambda: run([tool.python, "-c", "pass"]),
            "`python -c 'import click'`": lambda: run([tool.python, "-c", "import click"]),
            "`gpuctl --help`": lambda: run([tool.gpuctl, "--help"]),
            "Tab after “gpuctl la”": lambda: run([tool.gpuctl], complete("gpuctl la")),
            "Tab after “gpuctl tail ”": lambda: run([tool.gpuctl], complete("gpuctl tail ")),
        },
    )
    bare = took["`python -c pass`"]
    lines = ["| whole process | median | ratio |", "| --- | --- | --- |"]
    lines += [f"| {name} | {milliseconds(seconds)} | {seconds / bare:.1f}× |" for name, seconds in took.items()]
    ratio = took["`gpuctl --help`"] / bare
    lines += [
        "",
        f"{rounds} rounds, interleaved. `--help` may take {LIMIT:.0f}×: {'held' if ratio <= LIMIT else 'MISSED'}.",
    ]
    return Part("Starting", lines)
