"""A command that takes a job, and whose words after two dashes are for the job's own program."""

from __future__ import annotations

import difflib
import shlex

import click

from gpuctl.core.errors import GpuctlError, UsageError


class JobCommand(click.Command):
    """If the program's own options come before the two dashes, it says where they belong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it. Raises UsageError with the line to type for an option of the job's program."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            line = self._in_order(ctx, words)
            ours = [name for one in self.params for name in one.opts]
            misspelt = difflib.get_close_matches(error.option_name, ours, n=1, cutoff=0.8)
            if line is None or (misspelt and not _is_of_job(line[0], error.option_name)):
                raise
            what = f"{ctx.command_path} has no option {error.option_name}"
            typed = shlex.join([*ctx.command_path.split(), *line])
            raise UsageError(what, f"options for the job's own program go after --: {typed}") from error

    def _in_order(self, ctx: click.Context, words: list[str]) -> list[str] | None:
        """The words of a command line, the job first, every option that is not ours after the dashes; None if that
        is not one of our command lines either."""
        at = words.index("--") if "--" in words else len(words)
        kept, moved, after = words[:at], list[str](), words[at + 1 :]
        while True:
            try:
                read, _, _ = self.make_parser(ctx).parse_args(list(kept))
                break
            except click.NoSuchOption as error:
                begins = [i for i, word in enumerate(kept) if word.split("=")[0] == error.option_name]
                if not begins:
                    return None
                end = begins[0] + 1
                if "=" not in kept[begins[0]] and end < len(kept) and not kept[end].startswith("-"):
                    end += 1
                moved += kept[begins[0] : end]
                del kept[begins[0] : end]
            except click.UsageError:
                return None
        job, others = read.get("job"), read.get("words")
        if not isinstance(job, str) or (isinstance(others, tuple) and others):
            return None
        kept.remove(job)
        words_after = [*after, *moved] if after and not after[0].startswith("-") else [*moved, *after]
        return [job, *kept, "--", *words_after]


def _is_of_job(name: str, option: str) -> bool:
    from gpuctl.workflows.job_options import option_names
    from gpuctl.workflows.jobs import find_job

    try:
        return option in option_names(find_job(name))
    except GpuctlError:
        return False
