"""Perceptrons: the neuron that decides yes or no, and what can be built of it.

A perceptron weighs its inputs and fires when the evidence outweighs its bias: 1 if w·x + b > 0, else 0. Exactly on the
boundary (w·x + b = 0) it does not fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Perceptron:
    """One neuron with a hard threshold."""

    weights: tuple[float, ...]
    bias: float

    def __call__(self, *inputs: float) -> int:
        """1 if w·x + b > 0, else 0."""
        return int(self.evidence(*inputs) > 0)

    def evidence(self, *inputs: float) -> float:
        """w·x + b: on which side of the boundary the inputs lie, and how far."""
        return sum(w * x for w, x in zip(self.weights, inputs, strict=True)) + self.bias


# Shall I mow the lawn? Inputs: is it clear (not raining), is the grass long, is the mower easy to start?
MOW = Perceptron(weights=(4, 2, 1), bias=-5)
KEENER = Perceptron(weights=(4, 2, 1), bias=-3)  # a smaller bias: the same neighbour, less reluctant
RAINING_LONG_EASY = (0, 1, 1)
CLEAR_LONG_HARD = (1, 1, 0)

NAND = Perceptron(weights=(-2, -2), bias=3)


def mow_in_two_layers(clear: int, long: int, easy: int) -> int:
    """The lawn mower by a net of two layers: three neurons with an opinion each, and one that weighs the opinions.

    On a clear day with an easy mower my daughter does it; in the rain with a stubborn one nobody does. So I mow a long
    lawn when just one of the two is true: an exclusive or, which no single perceptron can say, because no line parts
    its answers.
    """
    needed = Perceptron(weights=(0, 1, 0), bias=-0.5)  # the grass is long
    bearable = Perceptron(weights=(1, 0, 1), bias=-0.5)  # clear, or easy to start
    somebody_else = Perceptron(weights=(1, 0, 1), bias=-1.5)  # clear and easy to start
    opinions = (needed(clear, long, easy), bearable(clear, long, easy), somebody_else(clear, long, easy))
    return Perceptron(weights=(1, 1, -1), bias=-1.5)(*opinions)


def negate(x: int) -> int:
    """NOT from one NAND."""
    return NAND(x, x)


def both(x: int, y: int) -> int:
    """AND from two NANDs."""
    return negate(NAND(x, y))


def either(x: int, y: int) -> int:
    """OR from three NANDs."""
    return NAND(negate(x), negate(y))


def from_nands(table: Sequence[int], inputs: Sequence[int]) -> int:
    """Any truth table, computed by NANDs and nothing else: the rows that say 1, each an AND, joined by ORs.

    `table` holds 2**len(inputs) answers, in the order 0…0, 0…1, …, 1…1. This is why perceptrons can compute anything.
    """
    rows = list(product((0, 1), repeat=len(inputs)))
    if len(table) != len(rows):
        raise ValueError(f"a truth table of {len(inputs)} inputs has {len(rows)} rows, this one has {len(table)}")
    answer = both(inputs[0], negate(inputs[0]))  # 0, made by NANDs as well
    for wanted, row in zip(table, rows, strict=True):
        if wanted:
            match = NAND(inputs[0], negate(inputs[0]))  # 1
            for x, bit in zip(inputs, row, strict=True):
                match = both(match, x if bit else negate(x))
            answer = either(answer, match)
    return answer
