"""The two moons: a network 2 - h - 2 of tanh neurons and a softmax that bends a line around them.

The experiment, its seed and its constants are Denny Britz's, and so are the losses that it prints:
https://github.com/dennybritz/nn-from-scratch/blob/master/nn-from-scratch.ipynb
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jobs.from_scratch.data import Array, Labels

RATE = 0.01
DECAY = 0.01  # λ: how much large weights cost


class MoonNetwork:
    """2 inputs, `hidden` tanh units, 2 classes; gradient descent over the whole set at once."""

    def __init__(self, hidden: int, seed: int = 0) -> None:
        rng = np.random.RandomState(seed)
        self.W1 = rng.randn(2, hidden) / np.sqrt(2)
        self.b1 = np.zeros((1, hidden))
        self.W2 = rng.randn(hidden, 2) / np.sqrt(hidden)
        self.b2 = np.zeros((1, 2))

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The hidden units' activations, and the probability of each class."""
        a = np.tanh(x @ self.W1 + self.b1)
        scores = np.exp(a @ self.W2 + self.b2)
        return a, scores / np.sum(scores, axis=1, keepdims=True)

    def loss(self, x: Array, y: Labels) -> float:
        """Mean cross-entropy in nats, without what the weights cost: comparable between sets and sizes."""
        _, p = self.forward(x)
        return float(np.mean(-np.log(p[np.arange(len(y)), y])))

    def objective(self, x: Array, y: Labels) -> float:
        """What the notebook prints: cross-entropy and the cost of the weights, over the number of examples."""
        _, p = self.forward(x)
        weights = np.sum(np.square(self.W1)) + np.sum(np.square(self.W2))
        return float(1.0 / len(y) * (np.sum(-np.log(p[np.arange(len(y)), y])) + DECAY / 2 * weights))

    def accuracy(self, x: Array, y: Labels) -> float:
        """The share of points on the right side."""
        return float(np.mean(np.argmax(self.forward(x)[1], axis=1) == y))

    def gradients(self, x: Array, y: Labels) -> tuple[Array, Array, Array, Array]:
        """The slopes of n times the objective for W1, b1, W2, b2: backpropagation, softmax first."""
        a, delta = self.forward(x)
        delta[np.arange(len(y)), y] -= 1  # softmax and cross-entropy together: probability less truth
        back = (delta @ self.W2.T) * (1 - np.power(a, 2))  # through tanh, whose slope is 1 - a²
        dW1 = x.T @ back + DECAY * self.W1
        dW2 = a.T @ delta + DECAY * self.W2
        return dW1, np.sum(back, axis=0), dW2, np.sum(delta, axis=0, keepdims=True)

    def step(self, x: Array, y: Labels) -> None:
        """One pass: all examples, one step downhill."""
        dW1, db1, dW2, db2 = self.gradients(x, y)
        self.W1 -= RATE * dW1
        self.b1 -= RATE * db1
        self.W2 -= RATE * dW2
        self.b2 -= RATE * db2

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {name: value.copy() for name, value in vars(self).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for name, value in state_dict.items():
            setattr(self, name, value.copy())


class StraightLine:
    """The baseline, logistic regression: the line whose chances of each side are likeliest to give what is known."""

    def __init__(self, x: Array, y: Labels) -> None:
        """Newton's method on the cross-entropy plus |w|²/2, which has one minimum; the bias costs nothing."""
        rows, costs = np.column_stack([x, np.ones(len(x))]), np.diag([1.0, 1.0, 0.0])
        self.w = np.zeros(3)
        for _ in range(20):
            p = 1 / (1 + np.exp(-rows @ self.w))
            slope = rows.T @ (p - y) + costs @ self.w
            self.w -= np.linalg.solve((rows.T * (p * (1 - p))) @ rows + costs, slope)

    def answers(self, x: Array) -> Labels:
        """On which side each point is."""
        return np.asarray(x @ self.w[:2] + self.w[2] > 0, dtype=np.int64)

    def accuracy(self, x: Array, y: Labels) -> float:
        """The share of points on the right side."""
        return float(np.mean(self.answers(x) == y))
