"""The table of how training programs print their losses. A new format is a new row, and an excerpt that shows it.

A row matches a whole line, never a part of one: the word "loss" in a sampled text gives no point. A program that prints
several kinds of lines has several rows of one name; one of them may give no point and lend what it says (an epoch's
number, a table's columns) to the lines after it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from gpuctl.core.errors import JobError
from gpuctl.core.losses.points import SPLIT_NAMES, Point, number, point
from gpuctl.core.text import did_you_mean, safe


@dataclass
class Context:
    """What the lines before say of the next one, for the rows of one name: their newest point, and what was lent."""

    newest: Point | None = None
    lent: dict[str, str] = field(default_factory=dict)


Build = Callable[["re.Match[str]", Context], list[Point]]
"""From a row's match and what came before, the points of the line."""

LOSS_GROUPS = ("loss", "train", "val", "test")
"""The named groups that hold a loss; the log marks what they matched."""

PLACES = ("step", "epoch", "split")
"""The named groups that say where in the training a loss belongs, and of what."""

GROUPS = (*PLACES, *LOSS_GROUPS)

_NUMBER = r"[-+]?(?:(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?|[nN]a[nN]|[iI]nf(?:inity)?)"
_COUNT = r"\d{1,15}"
_EPOCH = r"\d{1,9}(?:\.\d{1,9})?"


_BEFORE = re.compile(
    r"\s{0,40}(?:\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?[ :]{1,4})?"
    r"(?:\[?(?:rank|default)_?\d{1,5}\]?: ?)?(?:(?:\[?(?:INFO|DEBUG)\]?|- INFO -)[ :]{1,4})?"
)
"""What loggers and torchrun put before a line: a date, a rank, a level."""


def whole(text: str) -> tuple[int, int]:
    """Where the line stands without what a logger put before it, and spaces after it."""
    before = _BEFORE.match(text)
    return before.end() if before else 0, len(text.rstrip())


def by_names(match: re.Match[str], context: Context) -> list[Point]:
    """The points that the named groups say: `loss` of `split` (default: train), `train`, `val`, `test`.

    A step, an epoch or a split that the line does not say is the one that was lent.
    """
    said = match.groupdict()
    if context.lent:
        lent = {name: text for name, text in context.lent.items() if name in PLACES}
        said = lent | {name: text for name, text in said.items() if text is not None}
    step, epoch = count(said.get("step")), number(said.get("epoch") or "")
    epoch = epoch if epoch is not None and math.isfinite(epoch) and epoch >= 0 else None
    found = []
    for name in LOSS_GROUPS:
        text = said.get(name)
        loss = number(text) if text is not None else None
        if loss is None:
            continue
        of = said.get("split")
        split = SPLIT_NAMES.get(name if name != "loss" else "train" if of is None else of.strip().lower())
        if split is not None:
            found.append(point(split, loss, step=step, epoch=epoch))
    return found


def _part_of_epoch(match: re.Match[str], context: Context) -> list[Point]:
    """`Train Epoch: 2 [640/60000 …` is 1.0107 passes over the data."""
    seen, of = int(match["seen"]), int(match["of"])
    epoch = int(match["of_epoch"]) - 1 + (seen / of if of else 0.0)
    return [point("train", float(match["loss"]), epoch=round(max(0.0, epoch), 6))]


def _after_epoch(match: re.Match[str], context: Context) -> list[Point]:
    """A line that follows an epoch's lines and does not say which epoch that was."""
    before = context.newest
    epoch = None if before is None or before.epoch is None else float(math.floor(before.epoch) + 1)
    return [point("test", float(match["test"]), epoch=epoch)]


@dataclass(frozen=True)
class LogFormat:
    """One kind of line: whose it is (`name`), what prints it (`source`), how it looks, how points are made of it.

    A `pattern` matches the whole line, with `anywhere` a part of it, with `repeats` several parts. A row that `lends`
    gives no point: its named groups are the context of the lines after it, until it matches again. Every line of the
    row has its `hint` in it, and is looked for by that first: in a long log that takes a hundredth of the time.
    """

    name: str
    pattern: re.Pattern[str]
    source: str
    build: Build = by_names
    anywhere: bool = False
    repeats: bool = False
    lends: bool = False
    hint: str = ""


def _format(name: str, pattern: str, source: str, build: Build = by_names, *, hint: str = "oss") -> LogFormat:
    return LogFormat(name, re.compile(pattern, re.ASCII), source, build, hint=hint)


FORMATS: tuple[LogFormat, ...] = (
    _format(
        "gpuctl",
        rf"step (?P<step>{_COUNT})  epoch (?P<epoch>{_EPOCH})(?=.*  (?:train|val|test) loss )"
        rf"(?:  train loss (?P<train>{_NUMBER}))?(?:  val loss (?P<val>{_NUMBER}))?(?:  test loss (?P<test>{_NUMBER}))?"
        r"(?:  .*)?",
        "the packaged jobs, jobs/common",
    ),
    _format(
        "nanoGPT",
        rf"step (?P<step>{_COUNT}): train loss (?P<train>{_NUMBER}), val loss (?P<val>{_NUMBER})(?:, .*)?",
        "https://github.com/karpathy/nanoGPT, train.py: the losses over eval_iters batches",
    ),
    _format(
        "nanoGPT",
        rf"iter (?P<step>{_COUNT}): loss (?P<loss>{_NUMBER}), time .*",
        "https://github.com/karpathy/nanoGPT, train.py: the loss of one batch",
    ),
    _format(
        "char-rnn",
        rf"(?P<step>{_COUNT})/{_COUNT} \(epoch (?P<epoch>{_EPOCH})\), train_loss = +(?P<train>{_NUMBER})(?:, .*)?",
        "https://github.com/karpathy/char-rnn, train.lua",
    ),
    _format(
        "char-rnn",
        rf"saving checkpoint to .*_epoch(?P<epoch>{_EPOCH})_(?P<val>{_NUMBER})\.t7",
        "https://github.com/karpathy/char-rnn, train.lua: the validation loss is in the checkpoint's name",
        hint=".t7",
    ),
    _format(
        "mnist",
        rf"Train Epoch: (?P<of_epoch>{_COUNT}) \[(?P<seen>{_COUNT})/(?P<of>{_COUNT}) \(\d{{1,3}}%\)\]"
        rf"\s{{1,20}}Loss: (?P<loss>{_NUMBER})",
        "https://github.com/pytorch/examples, mnist/main.py",
        _part_of_epoch,
    ),
    _format(
        "mnist",
        rf"Test set: Average loss: (?P<test>{_NUMBER}), Accuracy: .*",
        "https://github.com/pytorch/examples, mnist/main.py: after each epoch",
        _after_epoch,
    ),
)


PATTERN_LIMIT = 1000
"""RE2's instructions in a job's own pattern: its time for a line is at most this times the line's length."""


def job_format(pattern: str) -> LogFormat:
    """A job's own `[metrics] pattern`, looked for anywhere in a line. Raises JobError saying what is wrong with it."""
    compiled = _compiled(pattern)
    for name in compiled.groupindex:
        if name not in GROUPS:
            hint = did_you_mean(name, GROUPS, otherwise=f"choose from {', '.join(GROUPS)}")
            raise JobError(f"the pattern has an unknown group {name!r}", hint)
    if not set(LOSS_GROUPS) & set(compiled.groupindex):
        raise JobError(
            "the pattern has no group for a loss", r"add a group called loss, train, val or test, such as (?P<loss>\S+)"
        )
    return LogFormat("job.toml", compiled, "the job's own [metrics] pattern", anywhere=True)


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern in RE2, which never backtracks: pattern and lines may be strangers' alike. Raises JobError."""
    import re2

    quiet = re2.Options()
    quiet.log_errors = False
    try:
        compiled = re2.compile(pattern, quiet)
    except (re2.error, ValueError) as error:
        why = error.args[0] if isinstance(error, re2.error) else error
        what = safe(why if isinstance(why, bytes) else str(why))
        raise JobError(f"the pattern is not a regular expression in RE2's syntax ({what})", _RE2_SYNTAX) from error
    if compiled.programsize > PATTERN_LIMIT:
        raise JobError("the pattern is too large to try on every line", "use fewer or smaller {…} repeats")
    return cast("re.Pattern[str]", compiled)


_RE2_SYNTAX = "RE2 has no look-around and no back-references; see docs/metrics.md"


def count(text: str | None) -> int | None:
    """A step, from what a pattern may have caught: `1,200` too."""
    digits = text or ""
    if not digits.isdigit():
        digits = digits.strip().replace(",", "").replace("_", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 15 else None
