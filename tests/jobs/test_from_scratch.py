"""`from_scratch`: the talk's numbers, gradients by hand, the published losses of the moons."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons
from sklearn.linear_model import LogisticRegression

from jobs.common.numpy_run import NumpyRun
from jobs.from_scratch import perceptron
from jobs.from_scratch.data import Batches, digits, moons, split_shuffled
from jobs.from_scratch.moons import DECAY, MoonNetwork, StraightLine
from jobs.from_scratch.network import SigmoidNetwork
from jobs.from_scratch.train import sizes
from tests.jobs.conftest import assert_same_run, equal, losses, random_steps


def test_the_lawn_is_not_mown_in_the_rain() -> None:
    """With b = -5 and w = (4, 2, 1): raining, long, easy says no; clear, long, hard to start says yes."""
    assert perceptron.MOW(*perceptron.RAINING_LONG_EASY) == 0
    assert perceptron.MOW(*perceptron.CLEAR_LONG_HARD) == 1


def test_on_the_boundary_a_perceptron_does_not_fire() -> None:
    """With b = -3 the first scenario lies exactly on the boundary, and w·x + b > 0 is still false."""
    assert perceptron.KEENER.evidence(*perceptron.RAINING_LONG_EASY) == 0
    assert perceptron.KEENER(*perceptron.RAINING_LONG_EASY) == 0


def test_two_layers_say_what_one_perceptron_cannot() -> None:
    """The net of two layers mows a long lawn when just one of clear and easy is true: an exclusive or."""
    for clear, long, easy in product((0, 1), repeat=3):
        assert perceptron.mow_in_two_layers(clear, long, easy) == (long and clear ^ easy)


def test_nand() -> None:
    """b = 3, w = (-2, -2) gives 0 for (1, 1) alone."""
    assert [perceptron.NAND(x, y) for x, y in product((0, 1), repeat=2)] == [1, 1, 1, 0]


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_any_truth_table_from_nands(inputs: int) -> None:
    """Every truth table of up to three inputs comes out of NANDs."""
    rows = list(product((0, 1), repeat=inputs))
    for table in product((0, 1), repeat=len(rows)):
        assert [perceptron.from_nands(table, row) for row in rows] == list(table)


@pytest.mark.parametrize("sizes", [(5, 10), (5, 4, 10), (5, 7, 6, 10)])
def test_the_four_equations_agree_with_autograd(sizes: tuple[int, ...]) -> None:
    """Backpropagation by hand gives autograd's slopes to 1e-10 in float64, for one to three layers."""
    rng = np.random.RandomState(0)
    network, x, y = SigmoidNetwork(sizes, rng), rng.randn(8, 5), np.eye(10)[rng.randint(10, size=8)]
    w = [torch.tensor(v, requires_grad=True) for v in network.W]
    b = [torch.tensor(v, requires_grad=True) for v in network.b]
    a = torch.tensor(x)
    for weights, bias in zip(w, b, strict=True):
        a = torch.sigmoid(a @ weights + bias)
    cost = ((a - torch.tensor(y)) ** 2).sum() / 2 / len(x)
    cost.backward()
    assert abs(cost.item() - network.cost(x, y)) < 1e-12
    for by_hand, parameters in zip(network.gradients(x, y), (w, b), strict=True):
        for slope, parameter in zip(by_hand, parameters, strict=True):
            np.testing.assert_allclose(slope, parameter.grad, rtol=0, atol=1e-10)


def test_the_moons_gradients_agree_with_autograd() -> None:
    """tanh, softmax, cross-entropy and weight decay by hand give autograd's slopes to 1e-10."""
    x, y = moons(50, seed=3)
    network = MoonNetwork(4)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in vars(network).items()}
    scores = torch.tanh(torch.tensor(x) @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"]
    objective = torch.nn.functional.cross_entropy(scores, torch.tensor(y), reduction="sum")
    (objective + DECAY / 2 * (p["W1"].square().sum() + p["W2"].square().sum())).backward()
    for slope, name in zip(network.gradients(x, y), ("W1", "b1", "W2", "b2"), strict=True):
        np.testing.assert_allclose(slope, p[name].grad.reshape(slope.shape), rtol=0, atol=1e-10)


def test_the_published_losses_of_the_moons_come_out_again() -> None:
    """3 units print 0.432387 after the first pass, 0.068947 at 1,000, and end at one of the two published losses.

    Which of the two is decided by the last bit of a rounding, and so by the machine's linear algebra.
    """
    x, y = moons(200, seed=0)
    network, printed = MoonNetwork(3), {}
    for number in range(20_000):
        network.step(x, y)
        if number % 1000 == 0:
            printed[number] = f"{network.objective(x, y):.6f}"
    assert (printed[0], printed[1000]) == ("0.432387", "0.068947")
    assert printed[19_000] in ("0.071316", "0.070758")


def test_moons_and_digits_are_scikit_learns() -> None:
    """Number for number, so that the notebook's and anybody's figures can be laid beside ours."""
    x, y = moons(201, seed=7)
    their_x, their_y = make_moons(201, noise=0.2, random_state=7)
    assert np.array_equal(x, their_x) and np.array_equal(y, their_y)
    images, names = digits()
    their_images, their_names = load_digits(return_X_y=True)
    assert np.array_equal(images, their_images / 16) and np.array_equal(names, their_names)


def test_the_straight_line_is_the_likeliest_one() -> None:
    """It is what scikit-learn's logistic regression finds."""
    x, y = moons(200, seed=0)
    line, theirs = StraightLine(x, y), LogisticRegression(tol=1e-8).fit(x, y)
    np.testing.assert_allclose(line.w, [*theirs.coef_[0], *theirs.intercept_], atol=1e-5)
    assert np.array_equal(line.answers(x), theirs.predict(x))
    assert line.accuracy(x, y) == theirs.score(x, y)


def test_a_split_loses_nothing() -> None:
    """Seven, one and two tenths, the same for every run, and every example in one of them."""
    parts = split_shuffled(1797, seed=0)
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert sorted(np.concatenate(parts)) == list(range(1797))
    assert all(np.array_equal(*pair) for pair in zip(parts, split_shuffled(1797, seed=0), strict=True))


def test_an_epoch_shows_no_example_twice() -> None:
    """Within an epoch all indices differ; the next has another order, another seed too; put back, it comes again."""
    batches = Batches(12, 5, seed=5)
    one, kept, two = batches.next_epoch(), batches.state_dict(), batches.next_epoch()
    assert [len(batch) for batch in one] == [5, 5] and len(set(np.concatenate(one))) == 10
    assert batches.epoch == 2.0
    assert not np.array_equal(one, two) and not np.array_equal(one, Batches(12, 5, seed=6).next_epoch())
    batches.load_state_dict(kept)
    assert np.array_equal(two, batches.next_epoch())
    with pytest.raises(SystemExit, match="a batch of 13 cannot be drawn from 12"):
        Batches(12, 13, seed=0)


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    """Arrays and plain values come back as they were; a file that is anything else is refused in one line."""
    run = NumpyRun(outputs=tmp_path)
    state = {"W": [np.eye(2), np.zeros(3)], "best": {"cost": float("inf"), "moons": {"3": np.arange(4)}}, "none": None}
    path = run.save("checkpoint.npz", run.capture(**state))
    found = run.read_state(path)
    assert found.pop("elapsed_s") >= 0 and found.pop("rng") == {}
    assert equal(found, state)
    np.savez(tmp_path / "objects.npz", state=np.array({"a": print}, dtype=object))
    (tmp_path / "text.npz").write_text("To be")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:200])
    for name in ("objects.npz", "text.npz", "cut.npz"):
        with pytest.raises(SystemExit, match=rf"{name} is no checkpoint that can be read safely"):
            run.read_state(tmp_path / name)
    with pytest.raises(SystemExit, match=r"the checkpoint .* cannot be read: No such file"):
        run.read_state(tmp_path / "nowhere.npz")


def test_sizes_of_networks_are_numbers() -> None:
    """As many as are given; what is no number of units is refused in one line."""
    assert sizes("1, 3,20") == [1, 3, 20]
    for words in ("", "3,", "a", "0,1", "-1", "1.5", "²"):
        with pytest.raises(SystemExit, match="--units wants numbers from 1"):
            sizes(words)


def test_the_smoke_preset_learns(train: Callable[..., str], tmp_path: Path) -> None:
    """The loss falls, the network is ahead of what tells digits apart by their ink, and pictures are kept."""
    printed = train("from_scratch", tmp_path, "--preset", "smoke")
    cost = list(losses(tmp_path, "val").values())
    assert cost[-1] < cost[0] / 2
    report = dict(line.rsplit(maxsplit=1) for line in printed.splitlines()[-2:])
    by_ink, by_neurons = (float(share) for share in report.values())
    assert by_neurons > 0.95 > 0.5 > by_ink
    assert {path.name for path in tmp_path.iterdir()} >= {"moons.png", "curve.png", "report.txt", "checkpoint.npz"}


SHORT = ("--preset", "smoke", "--units", "1", "--passes", "11", "--epochs", "25")


def test_a_killed_run_goes_on_bit_for_bit(
    train: Callable[..., str], train_killed: Callable[..., int], tmp_path: Path
) -> None:
    """SIGKILL after 17 losses and a second start: every loss and every weight as if nothing had happened."""
    train("from_scratch", tmp_path / "whole", *SHORT)
    assert train_killed("from_scratch", tmp_path / "killed", *SHORT, kills=[17]) == 1
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.prove
def test_killed_at_five_random_steps(
    train: Callable[..., str], train_killed: Callable[..., int], tmp_path: Path
) -> None:
    """SIGKILL at five random steps: every loss and every weight as if nothing had happened."""
    options = ("--preset", "laptop", "--passes", "2001")
    train("from_scratch", tmp_path / "whole", *options)
    kills = random_steps(1, among=28, count=5)
    assert train_killed("from_scratch", tmp_path / "killed", *options, kills=kills) == 5
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
