"""`dream`: the network is the trained one, pictures are what they were, a run can be killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.dream.model import EfficientNetLite0, load_network
from jobs.dream.pictures import load_picture, resize, side_by_side, to_image
from jobs.dream.train import gram
from tests.jobs.conftest import Train, assert_same_run, losses, random_steps

ESPRESSO, EGYPTIAN_CAT = 967, 285  # of ImageNet's classes


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return load_network(torch.device("cpu"))


def test_the_network_knows_what_it_sees(network: EfficientNetLite0) -> None:
    """The weights of the package in the network of sixty lines name the coffee and the cat."""
    for name, true in (("coffee", ESPRESSO), ("cat", EGYPTIAN_CAT)):
        assert int(network(load_picture(name, 224)).argmax()) == true


def test_layers_come_in_order_and_no_further_than_needed(network: EfficientNetLite0) -> None:
    """The stem halves the picture, block 11 has 112 channels at a sixteenth, odd sizes are padded up."""
    stem, block = network.layers(torch.rand(1, 3, 97, 130), (0, 11))
    assert stem.shape == (1, 32, 49, 65)
    assert block.shape == (1, 112, 7, 9)


def test_gram_forgets_where_but_not_what() -> None:
    """Shuffled places give the same matrix; other features do not."""
    seen = torch.rand(1, 4, 5, 6)
    shuffled = seen.flatten(2)[:, :, torch.randperm(30)].reshape(seen.shape)
    assert torch.allclose(gram(seen), gram(shuffled), atol=1e-6)
    assert not torch.allclose(gram(seen), gram(seen.flip(1)), atol=1e-3)


def test_a_given_picture_is_read_whatever_it_is(tmp_path: Path) -> None:
    """A grey picture with transparency becomes three colours, its shorter side as long as was asked for."""
    Image.fromarray(np.full((40, 80, 2), 128, dtype=np.uint8)).save(tmp_path / "grey.png")
    x = load_picture(str(tmp_path / "grey.png"), 20)
    assert x.shape == (1, 3, 20, 40)
    assert torch.allclose(x, torch.tensor(128 / 255), atol=1e-2)
    with pytest.raises(SystemExit, match="no picture at"):
        load_picture(str(tmp_path / "none.png"), 20)
    (tmp_path / "half.png").write_bytes((tmp_path / "grey.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("half.png", "text.png"):
        with pytest.raises(SystemExit, match=rf"the picture .*{name} cannot be read"):
            load_picture(str(tmp_path / name), 20)


def test_pictures_side_by_side_have_one_height() -> None:
    """Two pictures of 10 and 20 pixels' width at height 10, with a gap of 4."""
    image = side_by_side([torch.zeros(1, 3, 10, 10), resize(torch.ones(1, 3, 20, 40), 10, 20)], 10)
    assert image.size == (34, 10)
    assert to_image(torch.full((1, 3, 2, 2), 2.0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.prove
def test_the_smoke_preset_makes_pictures(train: Train, tmp_path: Path) -> None:
    """What the layer sees grows and the style comes nearer, and each picture is kept beside what it was made of."""
    train("dream", tmp_path, "--preset", "smoke")
    train_losses, val_losses = losses(tmp_path, "train"), losses(tmp_path, "val")
    assert 1 > train_losses[4, "train"] > train_losses[8, "train"] and val_losses[8, "val"] < 1  # the dream
    assert 1 > train_losses[12, "train"] > train_losses[20, "train"]  # the style
    assert 1 > train_losses[24, "train"] > train_losses[32, "train"]  # in reverse
    kept = {"dream.png", "style.png", "reverse.png", "dream_shown.png", "style_shown.png", "curve.png", "report.txt"}
    assert kept <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.prove
def test_killed_at_five_random_steps(train: Train, train_killed: Callable[..., int], tmp_path: Path) -> None:
    """SIGKILL at five random steps: every loss and every pixel as if nothing had happened."""
    options = ("--preset", "smoke", "--every", "2", "--descend", "30")
    train("dream", tmp_path / "whole", *options)
    assert train_killed("dream", tmp_path / "killed", *options, kills=random_steps(5, among=6, count=5)) == 5
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
