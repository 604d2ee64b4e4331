"""Muon: moves a matrix as far in every direction that its gradient has (https://kellerjordan.github.io/posts/muon).

`torch.optim.Muon` computes in bfloat16 on every device. Where that is not native it takes many times as long as the
network itself; this one needs no more in float32 than that one's rounds do where it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

ROUNDS, A, B, C = 5, 3.4445, -4.7750, 2.0315
"""So many rounds of x → A x + B x³ + C x⁵ bring singular values close to 1, wherever from 0 to 1 they began."""


class Muon(torch.optim.Optimizer):
    """Steps of one length in all directions that the gradients of late have, looked at one step ahead (Nesterov)."""

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(state["momentum"], group["momentum"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = matrix.shape
                matrix.add_(orthogonal(ahead), alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought close to 1 (from 0.7 to 1.2): where it leads, without how far.

    Newton-Schulz rounds on x'x, whose side is the smaller one, and at the end their product on x: half of the work of
    rounds on x itself where that is four times as tall. Rounding errors grow tenfold a round: not for bfloat16.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return orthogonal(matrix.T).T
    x: Tensor = matrix / matrix.norm().clamp(min=1e-7)
    gram = x.T @ x
    product = torch.empty(0)
    for number in range(ROUNDS):
        factor = torch.addmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal().add_(A)
        product = product @ factor if number else factor
        if number < ROUNDS - 1:
            gram = factor @ gram @ factor
    return x @ product
