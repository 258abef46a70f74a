"""ResNet-18 with GroupNorm in place of BatchNorm and weight-standardised convolutions.

Source: He et al., Deep Residual Learning for Image Recognition, 2016; Wu and He, Group Normalization, 2018; standardised.py.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.networks.network import Network
from common.networks.standardised import StandardisedConv2d

__all__ = ["ResNet18"]

WIDTHS = (64, 128, 256, 512)
GROUPS = 16


class Block(nn.Module):
    """Two convolutions beside a short cut, which is a convolution where the shape changes."""

    def __init__(self, incoming: int, outgoing: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = StandardisedConv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, outgoing)
        self.conv2 = StandardisedConv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, outgoing)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or incoming != outgoing:
            across = StandardisedConv2d(incoming, outgoing, 1, stride=stride, bias=False)
            self.short = nn.Sequential(across, nn.GroupNorm(GROUPS, outgoing))

    @override
    def forward(self, rows: Tensor) -> Tensor:
        """Return (row, outgoing, ...)."""
        found = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(rows)))))
        return torch.relu(found + self.short(rows))


class ResNet18(Network):
    """11.2 million weights. Input (view, channel, row, column), float32 in [0, 1]; embedding of 512."""

    patch_voxels_least: ClassVar[int] = 32
    rows_at_once: ClassVar[int] = 32

    def __init__(self, *, channels: int, outputs: int = 1) -> None:
        super().__init__()
        self.conv = StandardisedConv2d(channels, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.norm = nn.GroupNorm(GROUPS, WIDTHS[0])
        blocks, incoming = [], WIDTHS[0]
        for depth, width in enumerate(WIDTHS):
            blocks += [Block(incoming, width, stride=1 if depth == 0 else 2), Block(width, width, stride=1)]
            incoming = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(WIDTHS[-1], outputs)

    @override
    def embed(self, views: Tensor) -> Tensor:
        """Return the mean over positions of the last block, (view, 512)."""
        stem = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(views))), 3, stride=2, padding=1)
        pooled: Tensor = self.blocks(stem).mean((2, 3))
        return pooled
