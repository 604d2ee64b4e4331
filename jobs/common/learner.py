"""A network and its optimizer, as one thing that takes steps and can be kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Learner:
    """AdamW, and a learning rate that rises for a tenth of the way and then falls to zero along a cosine."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        device: torch.device,
        *,
        decay: float = 0.02,
        clip: float = 5.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.model, self.lr, self.clip = model.to(device), lr, clip
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=decay)

    def step(self, loss: Tensor, progress: float) -> float:
        """One step downhill; `progress` says how much of the training is done, from 0 to 1. Gives the loss."""
        rising, falling = progress / 0.1, 0.5 + 0.5 * math.cos(math.pi * max(0.0, progress - 0.1) / 0.9)
        self.optimizer.param_groups[0]["lr"] = self.lr * min(rising, falling)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
