"""The network: characters in, a guess at the next one out; how good its guesses are, and what it writes by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

# What a network remembers: for each layer (1, batch, hidden) once, and for an LSTM its cell beside it.
Memory = tuple[tuple[Tensor, ...], ...]


class CharRNN(nn.Module):
    """An embedding, recurrent layers, and a linear read-out over the vocabulary.

    Each layer after the first adds to what the one before it made of the text, so the read-out hears them all.
    """

    def __init__(self, vocabulary: int, *, cell: str, hidden: int, layers: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.embed = nn.Embedding(vocabulary, embedding)
        sizes = [embedding] + [hidden] * layers
        self.layers = nn.ModuleList(CELLS[cell](n, m) for n, m in pairwise(sizes))
        self.read = nn.Linear(hidden, vocabulary)
        if cell == "lstm":  # open the forget gates: a new network keeps what it reads (Jozefowicz et al., 2015)
            for layer in self.layers:
                nn.init.ones_(layer.bias_ih_l0.data[hidden : 2 * hidden])  # type: ignore[index]

    def forward(
        self, ids: Tensor, memory: Memory | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Memory]:
        """Logits (time, batch, vocabulary) of what follows ``ids`` (time, batch), and the memory after it.

        Units fall silent only where ``rng`` is given, and only on the way to the next layer: what is remembered
        stays whole (Zaremba et al., 2014).
        """
        x, after = self.embed(ids), []
        for i, layer in enumerate(self.layers):
            before = memory[i] if memory else None
            heard, state = layer(x, before[0] if before and len(before) == 1 else before)
            after.append(state if isinstance(state, tuple) else (state,))
            heard = self._silence(heard, rng)
            x = x + heard if i else heard
        return self.read(x), tuple(after)

    def _silence(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        if rng is None or not self.dropout:
            return x
        share = round(256 * self.dropout) / 256
        kept = _rng_bytes(x.numel(), rng).view_as(x) >= 256 * share
        return x * kept / (1 - share)


def _rng_bytes(count: int, rng: torch.Generator) -> Tensor:
    """Numbers from 0 to 255, (count,). A processor draws eight at a time, in a quarter of the time of one by one."""
    if rng.device.type != "cpu":
        return torch.randint(256, (count,), dtype=torch.uint8, device=rng.device, generator=rng)
    words = torch.empty(math.ceil(count / 8), dtype=torch.int64).random_(-(2**63), None, generator=rng)
    return words.view(torch.uint8)[:count]


class Committee(nn.Module):
    """Networks of one shape, trained independently, predict together: a character's probability is the mean of theirs.

    Each errs in its own way where the text is too short to learn from, so together they err less.
    """

    def __init__(self, networks: Iterable[CharRNN]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, ids: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Logits (time, batch, vocabulary) of what follows ``ids``, and each network's memory in turn."""
        guesses, after = [], []
        for i, network in enumerate(self.networks):
            size = len(network.layers)  # type: ignore[arg-type]
            logits, remembered = network(ids, memory[i * size : (i + 1) * size] if memory else None)
            guesses.append(logits)
            after += remembered
        return guesses[0] if len(guesses) == 1 else _mean_probability(guesses), tuple(after)


def _mean_probability(guesses: list[Tensor]) -> Tensor:
    """The logarithm of the mean of the probabilities that logits stand for."""
    probabilities = torch.stack([F.log_softmax(logits.float(), dim=-1) for logits in guesses])
    return probabilities.logsumexp(0) - math.log(len(guesses))


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats a character."""
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


@torch.no_grad()
def nats(model: CharRNN | Committee, ids: Tensor, *, streams: int = 1, warm_up: int = 256, chunk: int = 512) -> float:
    """Mean nats a character over all of ``ids`` but the first, read in order with memory carried.

    With ``streams`` > 1, so many parts are read side by side, which is faster; each part's memory is first warmed up on
    the ``warm_up`` characters before it.
    """
    device = next(model.parameters()).device
    span = math.ceil((len(ids) - 1) / streams)
    begins = torch.arange(streams) * span
    total, memory = torch.zeros((), dtype=torch.float64), None
    if streams > 1:
        where = begins + torch.arange(-min(warm_up, span), 0)[:, None]
        _, memory = model(ids[where.clamp(min=0)].to(device))
        for part in (part for layer in memory for part in layer):
            part[:, 0] = 0  # nothing stands before the first
    for start in range(0, span, chunk):
        where = begins + torch.arange(start, min(start + chunk, span))[:, None]
        held = where.clamp(max=len(ids) - 2)
        logits, memory = model(ids[held].to(device), memory)
        each = F.cross_entropy(logits.float().flatten(0, 1), ids[held + 1].flatten().to(device), reduction="none")
        total += each.double().cpu()[(where == held).flatten()].sum()
    return float(total) / (len(ids) - 1)


@torch.no_grad()
def write(model: CharRNN | Committee, prime: Tensor, *, length: int, temperature: float, seed: int) -> list[int]:
    """``length`` characters that follow ``prime``: each drawn from the guesses, sharpened by a low temperature.

    Chance is this function's own, so that a sample in the middle of training changes nothing of it.
    """
    device, rng = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    logits, memory = model(prime[:, None].to(device))
    written: list[int] = []
    for _ in range(length):
        guess = logits[-1, 0].float().cpu()
        if temperature > 0:
            drawn = torch.multinomial(F.softmax(guess / temperature, dim=-1), 1, generator=rng)
        else:
            drawn = guess.argmax(keepdim=True)
        written.append(int(drawn))
        logits, memory = model(drawn[:, None].to(device), memory)
    return written


def rebuild(state: dict[str, Any]) -> Committee:
    """The networks of a checkpoint, ready to read and write."""
    model = Committee(CharRNN(**state["shape"]) for _ in range(state["networks"]))
    model.load_state_dict(state["model"])
    return model
