"""Losses are found in what programs really print, and nowhere else."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuctl.core.errors import JobError
from gpuctl.core.losses.formats import FORMATS, Context, LogFormat
from gpuctl.core.losses.points import Point, point
from gpuctl.core.losses.reader import MATCH_LIMIT, LogLine, LossReader

CAPTURED = Path(__file__).with_name("captured")


def read(data: bytes, *, pattern: str | None = None) -> list[LogLine]:
    """All lines of a whole log."""
    reader = LossReader(pattern)
    return reader.feed(data) + reader.finish()


def points(data: bytes, *, pattern: str | None = None) -> list[Point]:
    """All points of a whole log."""
    return [point for line in read(data, pattern=pattern) for point in line.points]


def captured(name: str) -> list[Point]:
    """All points of a captured log."""
    return points((CAPTURED / name).read_bytes())


def test_nanogpt() -> None:
    """nanoGPT's evaluations give train and validation losses, its other lines train losses, with their steps."""
    found = captured("nanogpt.txt")
    assert len(found) == 3 * 2 + 21
    assert found[:3] == [
        Point(0, None, "train", 4.1725),
        Point(0, None, "val", 4.1783),
        Point(0, None, "train", 4.1838),
    ]
    assert [p for p in found if p.split == "val"][-1] == Point(20, None, "val", 4.0948)


def test_nanogpt_with_dates() -> None:
    """A date before each line does not hide the losses, and NaN is told as NaN."""
    found = captured("nanogpt_dated.txt")
    assert found[0] == Point(2990, None, "train", 3.8853)
    assert found[2] == Point(3000, None, "val", 4.0427)
    assert found[-1] == Point(3020, None, "train", None, "nan")


@pytest.mark.parametrize("name", ["nanogpt_nan.txt", "mnist_nan.txt"])
def test_losses_that_are_not_numbers(name: str) -> None:
    """A training that broke shows it: the losses from there on are null, and say nan."""
    found = captured(name)
    assert found[-1].loss is None
    assert found[-1].nonfinite == "nan"
    assert found[0].loss is not None


def test_char_rnn() -> None:
    """Karpathy's char-rnn: train losses with step and epoch, the validation loss from the checkpoint's name."""
    found = captured("char_rnn_lua.txt")
    assert found[0] == Point(3297, 49.955, "train", 1.49928484)
    assert found[3] == Point(None, 50.0, "val", 2.0510)
    assert found[4] == Point(3300, 50.0, "train", 1.46940195)
    assert len(found) == 5
    assert [p.step for p in captured("char_rnn_lua_start.txt")] == [1, 2, 3, 4, 5]


def test_mnist() -> None:
    """PyTorch's mnist: batches as parts of an epoch, and the test set's loss after each epoch, as test."""
    found = captured("mnist.txt")
    assert found[1] == Point(None, 0.16, "train", 1.510582)
    assert [p for p in found if p.split == "test"] == [
        Point(None, 1.0, "test", 0.1987),
        Point(None, 2.0, "test", 0.1413),
    ]
    assert len(found) == 16


def test_the_packaged_char_rnn() -> None:
    """The packaged job's own lines, and nothing of the table of baselines or the sample after them."""
    found = captured("packaged_char_rnn.txt")
    assert found[:2] == [Point(50, 0.01, "train", 2.9693), Point(50, 0.01, "val", 2.4587)]
    assert found[-1] == Point(150, 0.04, "test", 2.2898)
    assert len(found) == 8


def test_the_packaged_jobs() -> None:
    """What jobs/common prints, one split or several a line, with more after it."""
    log = (
        b"step 120  epoch 0.40  train loss 1.9312  val loss 1.9800  rate 0.002\n"
        b"step 130  epoch 0.43  train loss 1.9000\n"
        b"step 140  epoch 0.46  val loss nan\n"
        b"step 500  epoch 1.66  test loss 1.4870  accuracy 0.98\n"
    )
    assert points(log) == [
        Point(120, 0.40, "train", 1.9312),
        Point(120, 0.40, "val", 1.98),
        Point(130, 0.43, "train", 1.9),
        Point(140, 0.46, "val", None, "nan"),
        Point(500, 1.66, "test", 1.487),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"The loss of such a lord includes all harm.",
        b"and so: step 250: train loss 1.9, val loss 2.0",
        b"iter 250: loss of hope, time enough",
        b"loss 1.93",
        b"and so, my lord, a great loss: 0.5 of a pound",
        b"loss: 3 ships",
        b"value_loss: 0.5  entropy_loss=0.1  loss_scale: 65536.0",
        b"the test loss 2.4567 is the best so far",
        b"loss=0.3.1",
        b"step 1  epoch 2  loss of all  ",
        b"Test set: Average loss: great, Accuracy: none",
        b"L2 loss: 0.01",
        b"l1 loss = 0.25  loss_l1: 0.3  l1_loss=0.2",
        b"top1 loss: 0.2 | top5 loss 0.1",
        b"Best val loss: 1.234",
        b"epoch 3: best: val_loss=0.5, lowest avg loss: 0.4",
        b"Total loss: 1.5 million dollars",
        b"loss: 1.5 million dollars in 2023",
        b"The test of it, loss: 12.5 percent of step 3",
        b"They put the loss: 3.5 of it, as was said.",
    ],
)
def test_the_word_loss_alone_gives_nothing(line: bytes) -> None:
    """A line that only speaks of loss is no point."""
    assert points(line + b"\n") == []


def test_a_sample_of_shakespeare_gives_nothing() -> None:
    """Shakespeare's losses are not the network's."""
    assert captured("tinyshakespeare.txt") == []


def test_a_split_keeps_its_source() -> None:
    """Once one style has given a split's losses, another style that turns up later gives none of them."""
    log = (CAPTURED / "nanogpt.txt").read_bytes() + (CAPTURED / "mnist.txt").read_bytes()
    found = points(log)
    assert {p.split for p in found} == {"train", "val", "test"}
    assert [p for p in found if p.split == "train"] == [p for p in captured("nanogpt.txt") if p.split == "train"]


def test_the_losses_are_marked_where_they_stand() -> None:
    """A line says where in its shown text the losses are."""
    (line,) = read(b"\x1b[32mstep 250: train loss 1.9312, val loss 1.9800\x1b[0m\n")
    assert line.text == "step 250: train loss 1.9312, val loss 1.9800"
    assert [line.text[start:end] for start, end in line.spans] == ["1.9312", "1.9800"]


def test_a_jobs_own_pattern() -> None:
    """The pattern of job.toml is looked for anywhere in a line, and nothing else is."""
    pattern = r"\[(?P<step>[\d,]+)\] (?P<split>\w+) L=(?P<loss>\S+)"
    log = (
        b"> [1,200] valid L=0.5 ok\n> [1,300] training L=inf\nstep 250: train loss 1.9, val loss 2.0\n> [1] other L=1\n"
    )
    assert points(log, pattern=pattern) == [Point(1200, None, "val", 0.5), Point(1300, None, "train", None, "inf")]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "not a regular expression"),
        (r"(?=step)(?P<loss>\d)", "RE2"),
        (r"(?P<loss>\d)\1", "RE2"),
        (r"(?P<loss>(a?){999})", "too large"),
        (r"loss (\d+)", "no group for a loss"),
        (r"(?P<los>\d+)", "did you mean loss"),
        (r"(?P<loss>\d+) (?P<zebra>\d)", "choose from step, epoch"),
    ],
)
def test_a_wrong_pattern_is_refused(pattern: str, says: str) -> None:
    """A pattern that can give nothing is an error at once, not a run without losses."""
    with pytest.raises(JobError, match=says):
        LossReader(pattern)


@pytest.mark.parametrize("pattern", [r"(a+)+$(?P<loss>x)", r"(?P<loss>(\w+ ?)*)$", r"(a|a)*b(?P<loss>.)"])
def test_no_pattern_takes_long(pattern: str) -> None:
    """A pattern on which Python's `re` would try every way to split a line is as quick as any other."""
    began = time.monotonic()
    points((b"a" * 900 + b"!\n") * 20, pattern=pattern)
    assert time.monotonic() - began < 5


def test_progress_bars() -> None:
    """What ends in a carriage return is written over; the bar's last state is a line."""
    lines = read(b"\r 10%|#  | loss\r 50%|## |\r100%|###|\nnext\r\nend\r")
    assert [(line.text, line.transient) for line in lines] == [
        (" 10%|#  | loss", True),
        (" 50%|## |", True),
        ("100%|###|", False),
        ("next", True),
        ("next", False),
        ("end", True),
        ("end", False),
    ]


def test_a_loss_before_a_carriage_return_counts_once() -> None:
    """Lines that end in \\r\\n give each loss once."""
    assert points(b"step 1: train loss 2.0, val loss 3.0\r\n") == [
        Point(1, None, "train", 2.0),
        Point(1, None, "val", 3.0),
    ]


def test_a_line_of_a_megabyte() -> None:
    """A huge line is kept in little memory: its beginning, its end, and how much is missing."""
    (line, after) = read(b"begin" + b"x" * 1_000_000 + b"end\nstep 1: train loss 2.0, val loss 3.0\n")
    assert line.text.startswith("beginxxx")
    assert line.text.endswith("xxxend")
    assert "994,888 bytes" in line.text
    assert len(line.text) < 6000
    assert len(after.points) == 2


def test_a_long_line_is_not_searched() -> None:
    """Past a thousand characters no pattern is tried, so that none can take for ever."""
    assert points(b"loss 1 " + b"x" * MATCH_LIMIT, pattern=r"loss (?P<loss>\d)") == []
    assert len(points(b"loss 1 " + b"x" * 900, pattern=r"loss (?P<loss>\d)")) == 1


_PIECES = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                b"step 250: train loss 1.9, val loss nan\n",
                b"iter 1: loss 2, time 1ms\r",
                b"\n",
                b"\r\n",
                b"\r\r\n",
                b"Epoch 3/10\n",
                b"val loss 0.5\n",
                b"[7] train_loss=2.5 VAL_LOSS: nan\r",
                b"LOSS: 0.5\n",
                b"| epoch 2 | valid loss 7.29 |\n",
                b"Best val loss: 1.25\n",
                b"Train Epoch: 1 [0/60000 (0%)]\tLoss: 2.329474\n",
                b"x" * 3000,
                "é…\u202e".encode(),
            ]
        ),
    )
)


@given(pieces=_PIECES, cuts=st.lists(st.integers(0, 12_000)))
def test_how_the_bytes_are_cut_changes_nothing(pieces: list[bytes], cuts: list[int]) -> None:
    """Any bytes, in any pieces, give the lines and points that they give as a whole."""
    data = b"".join(pieces)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    reader = LossReader()
    lines = [line for a, b in pairwise(places) for line in reader.feed(data[a:b])]
    assert lines + reader.finish() == read(data)


LENDING = (
    LogFormat("toy", re.compile(r"Epoch (?P<epoch>\d+)/\d+"), "a toy", lends=True),
    LogFormat("toy", re.compile(r"(?P<split>\w+) loss (?P<loss>\S+)"), "a toy"),
)

OWN = r"(?P<split>\w*) ?(?i:loss)\W+(?P<loss>\d\.\d+|nan)"


def reader_of(kind: str) -> LossReader:
    """One with the known formats, with a row that lends, or with a job's own pattern."""
    return {"known": LossReader, "lending": lambda: LossReader(formats=LENDING), "own": lambda: LossReader(OWN)}[kind]()


@given(
    kind=st.sampled_from(["known", "lending", "own"]),
    pieces=_PIECES,
    cuts=st.lists(st.integers(0, 12_000)),
    fed_from=st.integers(0, 12_000),
)
def test_skimming_finds_the_same_points(kind: str, pieces: list[bytes], cuts: list[int], fed_from: int) -> None:
    """However the bytes come, and wherever the lines begin that are wanted too, the points are the same."""
    data = b"".join(pieces)
    expected = [point for line in _all_of(reader_of(kind), data) for point in line.points]
    size = len(data) + 1
    places = sorted({0, len(data), fed_from % size, *(cut % size for cut in cuts)})
    for fed in (len(data), fed_from % size):
        reader, found = reader_of(kind), list[Point]()
        for a, b in pairwise(places):
            if a < fed:
                found += reader.skim(data[a:b])
            else:
                found += [point for line in reader.feed(data[a:b]) for point in line.points]
        found += [point for line in reader.finish() for point in line.points]
        assert found == expected


def _all_of(reader: LossReader, data: bytes) -> list[LogLine]:
    return reader.feed(data) + reader.finish()


@pytest.mark.parametrize("at", range(len(FORMATS)), ids=[f"{one.name} {at}" for at, one in enumerate(FORMATS)])
@given(st.data())
def test_no_line_is_of_two_formats(at: int, data: st.DataObject) -> None:
    """So that the format of the last line may be tried first."""
    line = data.draw(st.from_regex(FORMATS[at].pattern, fullmatch=True))
    assert [one for one in FORMATS if one.pattern.fullmatch(line)] == [FORMATS[at]]


def test_skimming_a_long_log_is_quick() -> None:
    """Lines that cannot hold a loss cost next to nothing."""
    data = b"2026-11-28 12:00:00 INFO saved shard 7 of the data set\n" * 400_000 + b"iter 1: loss 2.0, time 1ms\n"
    began = time.process_time()
    assert LossReader().skim(data) == [Point(1, None, "train", 2.0)]
    assert time.process_time() - began < 2


def test_a_line_without_a_loss_lends_what_it_says_to_those_after_it() -> None:
    """`Epoch 3/10`, and then losses that do not say of which epoch; a line that says it itself needs no loan."""
    log = b"train loss 9\nEpoch 3/10\ntrain loss 2\nval loss 3\nEpoch 4/10\ntrain loss 1\n"
    lines = LossReader(formats=LENDING).feed(log)
    assert [line.points for line in lines if not line.text.startswith("Epoch")] == [
        (Point(None, None, "train", 9.0),),
        (Point(None, 3.0, "train", 2.0),),
        (Point(None, 3.0, "val", 3.0),),
        (Point(None, 4.0, "train", 1.0),),
    ]
    assert all(line.points == () and line.spans == () for line in lines if line.text.startswith("Epoch"))


def test_a_tables_header_lends_its_columns() -> None:
    """What a row's numbers mean, the line above them said: a row of the table of formats reads it."""

    def build(match: re.Match[str], context: Context) -> list[Point]:
        cells = dict(zip(context.lent.get("columns", "").split(), match["cells"].split(), strict=False))
        return [point("val", float(cells["val"]), step=int(cells["step"]))] if {"val", "step"} <= cells.keys() else []

    formats = (
        LogFormat("table", re.compile(r"(?P<columns>step( \w+)+)"), "a toy", lends=True),
        LogFormat("table", re.compile(r"(?P<cells>\d+( \S+)+)"), "a toy", build),
    )
    lines = LossReader(formats=formats).feed(b"7 1 2\nstep train val\n7 1 2\nstep val train\n8 1 2\n")
    found = [line.points for line in lines if line.points]
    assert found == [(Point(7, None, "val", 2.0),), (Point(8, None, "val", 1.0),)]


NAN = Point(None, None, "val", None, "nan")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"train_loss=2.55 val_loss=2.95", [Point(None, None, "train", 2.55), Point(None, None, "val", 2.95)]),
        (b"loss: 0.3", [Point(None, None, "train", 0.3)]),
        (b"LOSS: 0.5", [Point(None, None, "train", 0.5)]),
        (b"STEP 3 | VAL LOSS 0.5 |", [Point(3, None, "val", 0.5)]),
        (b"step12 loss: 0.5", [Point(12, None, "train", 0.5)]),
        (b"l2 loss: 0.01, loss: 0.5, best val loss: 0.4", [Point(None, None, "train", 0.5)]),
        (b"loss: 0.5 learning rate 0.001", [Point(None, None, "train", 0.5)]),
        (b"val loss: 0.5 improved, saving", [Point(None, None, "val", 0.5)]),
        (b"epoch 2 best acc 0.9 loss: 0.5 saving it", [Point(None, 2.0, "train", 0.5)]),
        (b"it 7 loss=0.5 avg_loss=.6 dev_loss=inf", [Point(7, None, "train", 0.5), Point(7, None, "val", None, "inf")]),
        (b"train loss: 1.2", [Point(None, None, "train", 1.2)]),
        (b"Epoch 3/10, step 1200: avg loss = 4e-05", [Point(1200, 3.0, "train", 4e-05)]),
        (b"[Epoch 4] Validation: Average loss: 0.25, accuracy: 0.9", [Point(None, 4.0, "val", 0.25)]),
        (b"{'loss': '0.6921', 'grad_norm': '1.2', 'epoch': '0.4'}", [Point(None, 0.4, "train", 0.6921)]),
        (b"8/8 - 69ms/step - loss: 2.5 - val_loss: nan", [Point(None, None, "train", 2.5), NAN]),
        (b"step 10 | loss 3.4160 | step time 10.51ms", [Point(10, None, "train", 3.416)]),
        (b"| end of epoch   1 | time:  1.46s | valid loss  7.29 | valid ppl  1463.45", [Point(None, 1.0, "val", 7.29)]),
        (b"Epoch: [1][3/6]\tData  0.023\tLoss 6.08e+00 (6.43e+00)", [Point(None, 1.0, "train", 6.08)]),
        (b"[12]\ttrain-auc:0.9\ttrain-logloss:0.5", [Point(12, None, "train", 0.5)]),
        (b"100%|###| 30/30 [00:00<00:00, 58it/s, v_num=0, train_loss_epoch=0.1]", [Point(None, None, "train", 0.1)]),
    ],
)  # fmt: skip
def test_a_name_and_a_number_are_a_loss(line: bytes, found: list[Point]) -> None:
    """Programs of no known format: what looks like a field is a loss, with what the line says of step, epoch, split."""
    assert points(line + b"\n") == found


@pytest.mark.parametrize(
    ("line", "step", "epoch"),
    [
        ("[2024-05-01 10:00:00,123][__main__][INFO] - epoch 3 step 400 loss: 0.5", 400, 3.0),
        ("[2024-05-01 10:00:00,123][__main__][INFO] - loss: 0.5", None, None),
        ("[12:30:01] step 7 loss: 0.5", 7, None),
        ("[12:30:01] loss: 0.5", None, None),
        ("[03/25 10:00:01 d2.utils.events]:  eta: 0:00:10  iter: 19  total_loss: 0.5  loss_cls: 0.7", 19, None),
        ("[0] Epoch 1 step 10 loss=0.5", 10, 1.0),
        ("[0] Epoch 1 loss=0.5", None, 1.0),
        ("[1,  2000] loss: 0.5", 2000, 1.0),
        ("[2, 12000] loss: 0.500", 12000, 2.0),
        ("[1,200] loss: 0.5", 1200, None),
        ("Step 1,200: loss: 0.5", 1200, None),
        ("step=1_200_000, loss: 0.5", 1_200_000, None),
        ("step 7, loss: 0.5", 7, None),
        ("[19] loss: 0.5", 19, None),
        ("[ 19/1,000] loss: 0.5", 19, None),
        ("2024-05-01 10:00:00 INFO [19/100] loss: 0.5", 19, None),
        ("[rank0]: [19] loss: 0.5", 19, None),
        ("[19/100 loss: 0.5", None, None),
    ],
)
def test_the_step_is_the_one_that_the_line_means(line: str, step: int | None, epoch: float | None) -> None:
    """Named, wherever that stands; else in brackets at the beginning, which are no date, time or rank."""
    assert points(line.encode() + b"\n") == [Point(step, epoch, "train", 0.5)]


def test_a_known_format_takes_the_place_of_a_loose_one() -> None:
    """What looks like a loss before the training begins does not hide the losses that come, nor do others after."""
    log = b"resumed at train_loss=9.5\nstep 1: train loss 2.0, val loss 3.0\nbest train_loss=0.5\n"
    assert [p.loss for p in points(log)] == [9.5, 2.0, 3.0]


def test_every_loose_loss_is_marked() -> None:
    """Each number of a line stands out."""
    (line,) = read(b"train_loss=2.55 val_loss=2.95\n")
    assert [line.text[start:end] for start, end in line.spans] == ["2.55", "2.95"]


LOGS = {
    "hf_trainer": {"train": 8, "val": 4},
    "imagenet_folder": {"train": 6, "test": 2},
    "word_language_model": {"train": 9, "val": 3, "test": 1},
}


@pytest.mark.parametrize("name", LOGS)
def test_real_logs_of_no_known_format(name: str) -> None:
    """Every loss of a real program's log, and of its splits."""
    found = captured(f"{name}.txt")
    assert {split: sum(p.split == split for p in found) for split in {p.split for p in found}} == LOGS[name]
