"""What is learnt from, and in which order: the two moons, which are made, and handwritten digits, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

DIGITS = Path(__file__).parent / "digits" / "digits.csv.gz"  # the README beside it tells where they come from


def moons(points: int, seed: int) -> tuple[Array, Labels]:
    """`points` of the two moons, with noise, (N, 2), and which moon each is of; seed 0 and 200 are the notebook's.

    Number for number what scikit-learn's `make_moons(points, noise=0.2, random_state=seed)` gives.
    """
    rng = np.random.RandomState(seed)
    upper, lower = np.linspace(0, np.pi, points // 2), np.linspace(0, np.pi, points - points // 2)
    across = np.append(np.cos(upper), 1 - np.cos(lower))
    up = np.append(np.sin(upper), 1 - np.sin(lower) - 0.5)
    which = np.append(np.zeros(len(upper), dtype=np.int64), np.ones(len(lower), dtype=np.int64))
    order = np.arange(points)
    rng.shuffle(order)
    return np.column_stack([across, up])[order] + rng.normal(scale=0.2, size=(points, 2)), which[order]


def digits() -> tuple[Array, Labels]:
    """1,797 handwritten digits: their 64 pixels, 0 to 1, and what each is."""
    rows = np.loadtxt(DIGITS, dtype=np.int64, delimiter=",")
    return rows[:, :-1] / 16, rows[:, -1]


def split_shuffled(n: int, *, seed: int) -> tuple[Labels, Labels, Labels]:
    """Which of `n` examples to learn from (70 %), to choose by (10 %), to be judged by (20 %): by `seed` alone."""
    order = np.random.RandomState(seed).permutation(n)
    return order[: n * 7 // 10], order[n * 7 // 10 : n * 8 // 10], order[n * 8 // 10 :]


class Batches:
    """Endless mini-batches of indices into `n` examples, each epoch in a new order.

    The order follows from the seed and the epoch's number, so that one number is all that a checkpoint must hold. The
    examples left over at an epoch's end (fewer than `batch`) are skipped; the next order has them elsewhere.
    """

    def __init__(self, n: int, batch: int, *, seed: int) -> None:
        if not 0 < batch <= n:
            raise SystemExit(f"a batch of {batch} cannot be drawn from {n} examples")
        self.n, self.batch, self.seed = n, batch, seed
        self.per_epoch = n // batch
        self.step = 0

    @property
    def epoch(self) -> float:
        """Epochs done so far."""
        return self.step / self.per_epoch

    def next_epoch(self) -> list[Labels]:
        """The mini-batches of the next epoch."""
        order = np.random.RandomState([self.seed, self.step // self.per_epoch]).permutation(self.n)
        self.step += self.per_epoch
        return np.split(order[: self.per_epoch * self.batch], self.per_epoch)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint needs."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take up what `state_dict` gave."""
        self.step = state_dict["step"]
