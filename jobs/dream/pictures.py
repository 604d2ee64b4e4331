"""Photographs: some that packages bring along, any that is given; as tensors, as files, side by side."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# what they show: package, file
PHOTOGRAPHS = {
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "pagoda": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}


def load_picture(name: str, side: int) -> Tensor:
    """A photograph by name, or any picture's file: (1, 3, H, W) from 0 to 1, its shorter side of `side` pixels."""
    path = Path(name)
    if name in PHOTOGRAPHS:
        package, file = PHOTOGRAPHS[name]
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"the photograph '{name}' comes with the package {package}, which is not installed")
        path = Path(spec.origin).parent / file
    elif not path.is_file():
        raise SystemExit(f"no picture at {name}: a file is needed, or one of {', '.join(PHOTOGRAPHS)}")
    try:
        with Image.open(path) as image:
            width, height = image.size
            scale = side / min(width, height)
            size = (round(width * scale), round(height * scale))
            pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    except (OSError, Image.DecompressionBombError) as error:
        raise SystemExit(f"the picture {path} cannot be read: {error}") from error
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).unsqueeze(0)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """The same picture in another size."""
    small = F.interpolate(x.cpu(), (height, width), mode="bilinear", antialias=True, align_corners=False)
    return small.to(x.device)  # by way of the CPU: MPS cannot do this


def to_image(x: Tensor) -> Image.Image:
    """For a file."""
    pixels = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)


def side_by_side(pictures: list[Tensor], height: int) -> Image.Image:
    """Several in a row, of one height, in 128 colours: small enough for a page."""
    scaled = [resize(x, height, round(x.shape[3] * height / x.shape[2])) for x in pictures]
    gap = torch.ones_like(scaled[0][:, :, :, :4])
    row = torch.cat([part for x in scaled for part in (x, gap)][:-1], dim=3)
    return to_image(row).quantize(128, dither=Image.Dither.FLOYDSTEINBERG)
