"""A network of sigmoid neurons with the quadratic cost, learning by gradient descent: all by hand, in NumPy.

Words and letters are those of M. Nielsen, *Neural Networks and Deep Learning*, chapters 1 and 2
(http://neuralnetworksanddeeplearning.com/chap2.html), with a batch's examples as rows: a layer's weighted input is
z = a·W + b, its activation σ(z).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from jobs.from_scratch.data import Array, Labels


def sigmoid(z: Array) -> Array:
    """σ(z) = 1 / (1 + e^-z): a perceptron's step made smooth, so that nudging a weight nudges the answer."""
    return 1.0 / (1.0 + np.exp(-z))


def sigmoid_slope(a: Array) -> Array:
    """σ'(z), from the activation a = σ(z) that is already at hand."""
    return a * (1.0 - a)


class SigmoidNetwork:
    """Layers of sigmoid neurons of the given sizes, e.g. (64, 30, 10)."""

    def __init__(self, sizes: tuple[int, ...], rng: np.random.RandomState) -> None:
        # Divided by the root of the fan-in, so that the neurons start where σ is steep and learning is quick.
        self.W = [rng.randn(n, m) / np.sqrt(n) for n, m in pairwise(sizes)]
        self.b = [np.zeros(m) for m in sizes[1:]]

    def activations(self, x: Array) -> list[Array]:
        """Every layer's activations for the rows of `x`, the input first and the answer last."""
        a = [x]
        for W, b in zip(self.W, self.b, strict=True):
            a.append(sigmoid(a[-1] @ W + b))
        return a

    def cost(self, x: Array, y: Array) -> float:
        """The quadratic cost C = 1/2n Σ |y - a|²."""
        return float(0.5 * np.sum((self.activations(x)[-1] - y) ** 2) / len(x))

    def answers(self, x: Array) -> Labels:
        """The class of the neuron that fires most, for each row."""
        return np.asarray(np.argmax(self.activations(x)[-1], axis=1))

    def gradients(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """The slopes of the cost for every weight and bias: the four equations of backpropagation."""
        a = self.activations(x)
        dW: list[Array] = [np.empty(0)] * len(self.W)
        db: list[Array] = [np.empty(0)] * len(self.b)
        delta = (a[-1] - y) / len(x) * sigmoid_slope(a[-1])  # BP1: the error of the last layer
        for layer in reversed(range(len(self.W))):
            db[layer] = delta.sum(axis=0)  # BP3: the slope of a bias is the error itself
            dW[layer] = a[layer].T @ delta  # BP4: of a weight, what comes in times the error that goes out
            if layer > 0:
                delta = delta @ self.W[layer].T * sigmoid_slope(a[layer])  # BP2: the error one layer back
        return dW, db

    def step(self, x: Array, y: Array, lr: float) -> None:
        """One step of gradient descent on one mini-batch: downhill, by `lr` times the slope."""
        dW, db = self.gradients(x, y)
        for layer in range(len(self.W)):
            self.W[layer] -= lr * dW[layer]
            self.b[layer] -= lr * db[layer]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"W": [W.copy() for W in self.W], "b": [b.copy() for b in self.b]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.W = [W.copy() for W in state_dict["W"]]
        self.b = [b.copy() for b in state_dict["b"]]
