"""Losses that programs of no known format print as fields: `train_loss=2.55`, `loss: 0.3`, `| loss 9.59 |`.

What is read must look like a field, not like a sentence: a number with a point after `loss` and `:` or `=`, or in a
cell of its own. `value_loss` and `loss_scale` are something else, and so is the great loss of a sampled text.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache

from gpuctl.core.losses.formats import Context, LogFormat, count, whole
from gpuctl.core.losses.points import SPLIT_NAMES, Point, Split, number, point

LOOSE = "loose"
"""The name of these rows: any other that gives a split's losses takes their place."""

_MEANS = frozenset({"avg", "average", "mean", "running", "total", "batch", "epoch", "step", "iter", "iteration"})
"""Words beside `loss` that leave it the loss."""

_NUMBERED = frozenset({"epoch", "step", "it", "iter", "iteration"})
"""Words that may be one with their number (`step12 loss`); in any other (`l2`) a digit makes it another loss."""

_WORD, _QUOTE, _GAP = r"[a-z][a-z\d]{0,19}", r"['\"]?", r"[ \t]{0,8}"
_NUMBER = r"[-+]?(?:\d{0,20}\.\d{1,20}(?:e[-+]?\d{1,3})?|\d{1,20}e[-+]?\d{1,3}|nan|inf)(?![\w.])"
_FIELD = re.compile(
    rf"(?<![\w/.-])(?:(?P<word>{_WORD})(?: set)?[ _/.-])?(?:log)?loss(?:[/_](?P<after>{_WORD}))?{_QUOTE}"
    rf"{_GAP}[:=]{_GAP}{_QUOTE}(?P<loss>{_NUMBER})",
    re.ASCII | re.IGNORECASE,
)
_CELL = re.compile(
    rf"[|\t]{_GAP}(?:(?P<word>{_WORD})[ _])?loss[ \t]{{1,8}}(?P<loss>{_NUMBER})", re.ASCII | re.IGNORECASE
)
_SUMMARY = re.compile(
    r"\b(?:best|lowest|min|minimum)(?:[ _](?:avg|average|mean|total))?[ \t]?:?[ \t]{0,4}\Z", re.ASCII | re.IGNORECASE
)
"""Right before a field: it says again what an earlier line said."""

_WORDS = re.compile(r"[ \t]{1,4}[a-z][^\d:=|]{0,200}\Z", re.ASCII | re.IGNORECASE)
"""A sentence goes on after its number, to the end of the line."""

_AMOUNT = re.compile(
    r"[ \t]{1,4}(?:hundred|thousand|million|billion|trillion|dollars|euros|pounds|percent)\b", re.ASCII | re.IGNORECASE
)
"""Of what the number before it is no loss, wherever it stands."""

_SPLIT = re.compile(rf"\b(?:{'|'.join(SPLIT_NAMES)})\b", re.ASCII | re.IGNORECASE)
_AFTER_NAME = rf"{_QUOTE}[ \t]{{0,4}}[:=#\[]?{_GAP}[\['\"]?"
_COUNT = r"\d{1,15}(?:[,_]\d{3}){0,4}"
_EPOCH = re.compile(rf"\bepoch{_AFTER_NAME}(\d{{1,9}}(?:\.\d{{1,9}})?)(?![\w.])", re.ASCII | re.IGNORECASE)
_STEP = re.compile(
    rf"\b(?:step|it|iter|iteration|global_step){_AFTER_NAME}({_COUNT})(?![\w.])", re.ASCII | re.IGNORECASE
)
_BRACKET = re.compile(
    rf"\[(?:(?P<epoch>\d{{1,9}}),[ \t]{{1,8}})?[ \t]{{0,8}}(?P<step>{_COUNT})(?:/{_COUNT})?\]", re.ASCII
)
"""At the beginning of a line: `[19]`, `[19/100]`, and PyTorch's tutorial's `[2,  4000]`, an epoch and its iteration."""


def _point(match: re.Match[str], context: Context) -> list[Point]:
    """The point of one field, with the step and epoch of its line."""
    said = match.groupdict()
    words = [word.lower() for word in (said["word"], said.get("after")) if word]
    loss, line = number(match["loss"]), match.string
    if loss is None or not all(map(_leaves_it_the_loss, words)) or _SUMMARY.search(line[: match.start()]):
        return []
    if _AMOUNT.match(line, match.end()):
        return []
    split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None) or _split(line[: match.start()])
    step, epoch = _place(line)
    if (split, step, epoch) == (None, None, None) and _WORDS.match(line, match.end()):
        return []
    return [point(split or "train", loss, step=step, epoch=epoch)]


def _leaves_it_the_loss(word: str) -> bool:
    return word in SPLIT_NAMES or word in _MEANS or word.rstrip(string.digits) in _NUMBERED


@lru_cache(maxsize=1)  # of a line that has several fields
def _place(line: str) -> tuple[int | None, float | None]:
    """The step and epoch that the line names; where it names neither, those in brackets at its beginning."""
    begin, _ = whole(line)
    step, epoch = _STEP.search(line, begin), _EPOCH.search(line, begin)
    if step or epoch:
        return count(step[1]) if step else None, float(epoch[1]) if epoch else None
    if bracket := _BRACKET.match(line, begin):
        return count(bracket["step"]), float(bracket["epoch"]) if bracket["epoch"] else None
    return None, None


def _split(before: str) -> Split | None:
    """The last split named before the field."""
    named = _SPLIT.findall(before)
    return SPLIT_NAMES[named[-1].lower()] if named else None


LOOSE_FORMATS: tuple[LogFormat, ...] = tuple(
    LogFormat(LOOSE, pattern, "programs of no known format", _point, anywhere=True, repeats=True, hint=hint)
    for hint in ("oss", "OSS")
    for pattern in (_FIELD, _CELL)
)
