"""`jobs.common`: options, splits, the order of examples, devices, the curve."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.common.args import option, parse
from jobs.common.data import Batches, split_in_order, split_shuffled, split_sizes
from jobs.common.device import bfloat16_is_faster, bfloat16_works, pick_device
from jobs.common.plots import loss_curve
from jobs.common.run import Run


@dataclass(frozen=True)
class Settings:
    batch: int = option(64, "sequences a step")
    rate: float = option(0.1, "how far a step goes, 5% say")
    share: float = option(0.1, "share that is silent", most=0.95)
    cell: str = option("lstm", "kind of layer", choices=["gru", "lstm"])
    noisy: bool = option(False, "with noise")


PRESETS = {"smoke": Settings(batch=8), "laptop": Settings(), "gpu": Settings(batch=256, noisy=True)}


def test_an_option_wins_over_its_preset() -> None:
    """What is not given comes from the preset, what is given from the command line, each as its own type."""
    common, settings = parse(PRESETS, argv=["--preset", "gpu", "--rate", "2", "--no-noisy", "--max-seconds", "9"])
    assert settings == Settings(batch=256, rate=2.0, noisy=False)
    assert isinstance(settings.rate, float)
    assert (common.preset, common.max_seconds, common.resume, common.threads) == ("gpu", 9.0, "auto", None)


def test_without_cuda_the_preset_is_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default follows the machine, and outputs go where gpuctl says."""
    monkeypatch.setenv("GPUCTL_OUTPUTS", "results")
    common, settings = parse(PRESETS, argv=[])
    assert (common.preset, settings.batch) == (("gpu", 256) if torch.cuda.is_available() else ("laptop", 64))
    assert common.outputs == "results"


def test_help_shows_what_each_preset_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees a setting's value in every preset, or the one that they share."""
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, argv=["--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "sequences a step (8, 64, 256)" in out
    assert "how far a step goes, 5% say (0.1)" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--batch", "0"], "argument --batch: 0 is not a number of 1 or more"),
        (["--rate", "-1"], "argument --rate: -1 is not a number of 0 or more"),
        (["--rate", "inf"], "argument --rate: inf is not a number of 0 or more"),
        (["--share", "1.5"], "argument --share: 1.5 is not a number from 0 to 0.95"),
        (["--max-seconds", "nan"], "argument --max-seconds: nan is not a number of 0 or more"),
        (["--seed", "-1"], "argument --seed: -1 is not a number from 0 to 4294967295"),
        (["--threads", "-2"], "argument --threads: -2 is not a number of 0 or more"),
        (["--batch", "1.5"], "argument --batch: invalid int value: '1.5'"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line that says which numbers do, before anything was done."""
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, argv=argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {said}\n")


@pytest.mark.parametrize("argv", [["--cell", "gpt"], ["--rate", "fast"], ["--preset", "huge"], ["--bach", "3"]])
def test_a_wrong_option_is_wrong_usage(argv: list[str]) -> None:
    """Exit code 2, before anything was done."""
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, argv=argv)
    assert ended.value.code == 2


@given(st.integers(0, 5000), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_a_split_loses_nothing(n: int, weights: list[int]) -> None:
    """Whatever the fractions, the parts follow each other and make up the whole."""
    fractions = [weight / sum(weights) for weight in weights]
    parts = split_in_order(n, fractions)
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    assert all(abs(size - n * share) < len(weights) + 1 for size, share in zip(split_sizes(n, fractions), fractions))  # noqa: B905
    drawn = torch.cat(split_shuffled(n, fractions, seed=3))
    assert sorted(drawn.tolist()) == list(range(n))


def test_the_last_tenth_is_the_one_that_others_hold_out() -> None:
    """88/2/10 of tiny Shakespeare's length: test is exactly what lies behind int(0.9 n)."""
    n = 1_115_394
    train, val, test = split_in_order(n, (0.88, 0.02, 0.10))
    assert (train.stop, val.stop, test.start, test.stop) == (int(0.88 * n), int(0.9 * n), int(0.9 * n), n)


def test_an_order_is_resumed_in_the_middle_of_an_epoch() -> None:
    """Batches that were put back go on with the very examples that would have come next, into the next epochs."""
    batches = Batches(10, 3, seed=5)
    for _ in range(4):
        batches.next()
    kept = batches.state_dict()
    expected = [batches.next().tolist() for _ in range(9)]
    again = Batches(10, 3, seed=5)
    again.load_state_dict(kept)
    assert [again.next().tolist() for _ in range(9)] == expected


def test_an_epoch_shows_no_example_twice() -> None:
    """Within an epoch all indices differ; the next epoch has another order, another seed too."""
    batches = Batches(12, 4, seed=5)
    epochs = [[i for _ in range(3) for i in batches.next().tolist()] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert batches.epoch == 2.0
    assert Batches(12, 4, seed=6).next().tolist() != epochs[0][:4]


def test_a_device_that_is_named_is_taken() -> None:
    """A name wins over what the machine would suggest; one that is not here is refused in one line."""
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("meta") == torch.device("meta")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(SystemExit, match=f"^no device {name} here: [^\n]+$"):
            pick_device(name)


def test_the_curve_is_drawn_from_the_metrics(tmp_path: Path) -> None:
    """A picture of train and validation loss; a repeated step counts once, a missing loss not at all."""
    run = Run(outputs=tmp_path, resume="never")
    for step, loss in ((1, 3.0), (2, 2.0), (2, 2.0), (3, float("nan"))):
        run.log(step=step, epoch=step / 10, losses={"train": loss, "val": loss + 0.1})
    figure = loss_curve(run.metrics)
    lines = {str(line.get_label()): list(line.get_xdata()) for line in figure.axes[0].get_lines()}
    assert lines == {"train": [0.1, 0.2], "val": [0.1, 0.2]}
    assert run.figure("loss.png", figure).read_bytes().startswith(b"\x89PNG")


def test_bfloat16_is_tried_and_not_asked_for() -> None:
    """What takes longer in bfloat16 is not computed so, what takes less is, and what cannot be done is no error."""
    cpu, times = torch.device("cpu"), {"float32": 0.0, "bfloat16": 0.0}

    def compute() -> None:
        time.sleep(times["bfloat16" if torch.is_autocast_enabled("cpu") else "float32"])

    def refused() -> None:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor")

    times["bfloat16"] = 0.3
    assert not bfloat16_is_faster(cpu, compute)
    times.update(float32=0.3, bfloat16=0.0)
    assert bfloat16_is_faster(cpu, compute)
    assert bfloat16_works(cpu, compute)
    assert not bfloat16_is_faster(cpu, refused)
    assert not bfloat16_works(cpu, refused)
