"""Which examples are for learning, which for choosing and which for the final word; and in which order they come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def split_sizes(n: int, fractions: Sequence[float]) -> list[int]:
    """Cut ``n`` into parts of these fractions (which sum to 1); each border is rounded down, nothing is lost."""
    borders = [int(n * sum(fractions[: i + 1]) + 1e-9) for i in range(len(fractions) - 1)] + [n]
    return [end - begin for begin, end in zip([0, *borders[:-1]], borders, strict=True)]


def split_in_order(n: int, fractions: Sequence[float]) -> list[slice]:
    """Train, val, test as consecutive slices: for what has an order, such as text."""
    slices, begin = [], 0
    for size in split_sizes(n, fractions):
        slices.append(slice(begin, begin + size))
        begin += size
    return slices


def split_shuffled(n: int, fractions: Sequence[float], *, seed: int) -> list[Tensor]:
    """Train, val, test as index tensors, by ``seed`` alone: every run of a job holds out the same examples."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return list(torch.split(order, split_sizes(n, fractions)))


class Batches:
    """Endless minibatches of indices into ``n`` examples, each epoch in a new order.

    The order is a function of ``seed`` and the epoch's number, so that two numbers are all that a checkpoint must hold.
    The examples left over at an epoch's end (fewer than ``batch``) are skipped; the next order has them elsewhere.
    """

    def __init__(self, n: int, batch: int, *, seed: int) -> None:
        if not 0 < batch <= n:
            raise ValueError(f"a batch of {batch} from {n} examples")
        self.n, self.batch, self.seed = n, batch, seed
        self.per_epoch = n // batch
        self.step = 0
        self._order_of, self._order = -1, torch.empty(0, dtype=torch.long)

    @property
    def epoch(self) -> float:
        """Epochs done so far."""
        return self.step / self.per_epoch

    def next(self) -> Tensor:
        """The next minibatch's indices."""
        number, place = divmod(self.step, self.per_epoch)
        if number != self._order_of:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            self._order_of, self._order = number, torch.randperm(self.n, generator=rng)
        self.step += 1
        return self._order[place * self.batch : (place + 1) * self.batch]

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.step = state_dict["step"]
