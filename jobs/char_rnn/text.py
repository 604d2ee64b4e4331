"""The text: where it comes from, its characters as numbers, and how it is fed to a network that remembers."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PLAYS = Path(__file__).parent / "plays"  # its README tells where they come from


def read_text(path: str) -> str:
    """The text of a file, or all of Shakespeare's plays where ``path`` is empty."""
    if not path:
        return shakespeare()
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SystemExit(f"the text {path} cannot be read: {error.strerror}") from error


def shakespeare() -> str:
    """All of Shakespeare's plays as plain text: every speech as who speaks, a colon and what is said."""
    kinds = sorted(PLAYS.glob("*.txt.gz"))
    return "\n".join(gzip.decompress(kind.read_bytes()).decode("utf-8") for kind in kinds)


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a text, in order; a character's number is its place."""

    characters: str

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> Tensor:
        """The numbers of the text's characters; those that are not in the vocabulary are left out."""
        known, codes = _codes(self.characters), _codes(text)
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        return torch.from_numpy(places[known[places] == codes])

    def decode(self, ids: list[int]) -> str:
        return "".join(self.characters[i] for i in ids)


class Streams:
    """Reads a text with ``batch`` eyes at once, each on its own part of it, ``sequence`` characters a step.

    What an eye reads in one step goes on where its last step ended, so the network's memory can be carried along.
    Every epoch begins at another place (a function of ``seed`` and the epoch's number), where memory starts empty.
    """

    def __init__(self, ids: Tensor, *, batch: int, sequence: int, seed: int) -> None:
        self.per_epoch = (len(ids) - 1) // (batch * sequence)
        if self.per_epoch < 1:
            raise SystemExit(f"{len(ids)} characters to learn from are too few for {batch} × {sequence} a step")
        self.ids, self.batch, self.sequence, self.seed = ids, batch, sequence, seed
        self.step = 0

    @property
    def epoch(self) -> float:
        """Epochs read so far."""
        return self.step / self.per_epoch

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """Characters (sequence, batch), the characters that follow them, and whether a new epoch begins here."""
        number, place = divmod(self.step, self.per_epoch)
        span = self.per_epoch * self.sequence  # what one eye reads in an epoch
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        shift = int(torch.randint(len(self.ids), (), generator=rng))
        begins = shift + torch.arange(self.batch) * span + place * self.sequence
        where = torch.arange(self.sequence + 1)[:, None] + begins[None, :]
        window = self.ids[where % len(self.ids)]
        self.step += 1
        return window[:-1], window[1:], place == 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.step = state_dict["step"]


def counting_nats(train: Tensor, test: Tensor, *, context: int) -> float:
    """The baseline: predict ``test`` by how often each character followed the same ``context`` characters in ``train``.

    Nats a character. Each count begins at a half, so that nothing is impossible.
    """
    kinds = int(max(train.max(), test.max())) + 1

    def places(ids: Tensor) -> Tensor:
        """The context and what follows it, as one number."""
        place = torch.zeros(len(ids) - context, dtype=torch.long)
        for i in range(context + 1):
            place = place * kinds + ids[i : len(ids) - context + i]
        return place

    counts = torch.bincount(places(train), minlength=kinds ** (context + 1)).double() + 0.5
    probabilities = counts.view(-1, kinds) / counts.view(-1, kinds).sum(1, keepdim=True)
    return -float(probabilities.flatten()[places(test)].log().mean())
