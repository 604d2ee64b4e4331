"""The options that every job has, and its own, made of one dataclass.

A job's settings are a frozen dataclass of `option` fields; its presets are instances of it::

    @dataclass(frozen=True)
    class Settings:
        batch: int = option(64, "sequences a step")

    PRESETS = {"smoke": Settings(batch=8), "laptop": Settings(), "gpu": Settings(batch=256)}
    common, settings = parse(PRESETS, doc=__doc__)

What is given on the command line (`--batch 32`) wins over the preset.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

S = TypeVar("S")


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    least: float | None = None,
    most: float = math.inf,
) -> Any:
    """A setting with its default (whose type is the option's type), what it means, and what it may be.

    A number lies between ``least`` (1 for whole numbers, else 0, where nothing else is said) and ``most``.
    """
    kind = type(default)
    lowest = float(kind is int) if least is None else least
    read = number(kind, least=lowest, most=most) if kind in (int, float) else kind
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "read": read})


def number(kind: type[int] | type[float], *, least: float, most: float = math.inf) -> Callable[[str], int | float]:
    """How argparse reads a number from ``least`` to ``most``; it tells the user of any other."""

    def read(word: str) -> int | float:
        value = kind(word)
        if not (math.isfinite(value) and least <= value <= most):
            bounds = f"a number from {least:g} to {most:.10g}" if most < math.inf else f"a number of {least:g} or more"
            raise argparse.ArgumentTypeError(f"{word} is not {bounds}")
        return value

    read.__name__ = kind.__name__  # argparse says "invalid int value"
    return read


@dataclass(frozen=True)
class Common:
    """The options of every job. `preset` is the name of the one that was taken.

    `device` and `threads` are options where the job computes with torch.
    """

    preset: str
    max_seconds: float | None
    resume: str
    outputs: str
    seed: int
    device: str | None = None
    threads: int | None = None


def parse(
    presets: Mapping[str, S], *, doc: str | None = None, prog: str | None = None, argv: Sequence[str] | None = None
) -> tuple[Common, S]:
    """Read the command line (``argv``, else the process's own): the common options, and the job's settings."""
    parser = argparse.ArgumentParser(prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_common(parser, sorted(presets))
    own = parser.add_argument_group("settings (defaults: " + ", ".join(presets) + ")")
    fields = dataclasses.fields(next(iter(presets.values())))  # type: ignore[arg-type]
    for field in fields:
        _add_setting(own, field, [getattr(preset, field.name) for preset in presets.values()])
    given = vars(parser.parse_args(argv))
    preset = given["preset"] or ("gpu" if _has_cuda() else "laptop")
    chosen = {field.name: given.pop(field.name) for field in fields}
    settings = dataclasses.replace(presets[preset], **{k: v for k, v in chosen.items() if v is not None})  # type: ignore[type-var]
    return Common(**{**given, "preset": preset}), settings


def _has_cuda() -> bool:
    """Whether there is a GPU for the job; one that has not imported torch has no use for any."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def _add_common(parser: argparse.ArgumentParser, presets: Sequence[str]) -> None:
    add = parser.add_argument
    add("--preset", choices=presets, help="set of defaults to use (default: gpu with CUDA, else laptop)")
    add(
        "--max-seconds",
        type=number(float, least=0),
        metavar="N",
        help="maximum training time; the learning rate falls accordingly",
    )
    add(
        "--resume",
        default="auto",
        metavar="CKPT",
        help="continue from this checkpoint, or 'never' (default: $GPUCTL_RESUME, else what the same command "
        "left unfinished in the outputs folder)",
    )
    add("--outputs", default=os.environ.get("GPUCTL_OUTPUTS") or "outputs", metavar="FOLDER", help="folder for results")
    seed = number(int, least=0, most=2**32 - 1)
    add("--seed", type=seed, default=1337, metavar="N", help="random seed (default: 1337)")
    if "torch" in sys.modules:
        add("--device", metavar="NAME", help="cuda, mps or cpu (default: the fastest available)")
        add("--threads", type=number(int, least=0), metavar="N", help="processor threads (default: torch's own choice)")


def _add_setting(group: Any, field: dataclasses.Field[Any], defaults: Sequence[Any]) -> None:
    flag = "--" + field.name.replace("_", "-")
    shown = ", ".join(str(value) for value in (defaults if len(set(defaults)) > 1 else defaults[:1]))
    text = f"{field.metadata['help']} ({shown or 'none'})".replace("%", "%%")
    if isinstance(field.default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        known = field.metadata
        group.add_argument(flag, type=known["read"], choices=known["choices"], default=None, help=text)
