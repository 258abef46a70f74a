"""A small 2-D GroupNorm CNN: three convolutions, pooled at every depth so that size is not lost, and an embedding."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.networks.network import Network

__all__ = ["EMBEDDING", "Cnn2d"]

EMBEDDING = 12  # attributes of a random process that the prior learned to tell, see server/prior.py


class Cnn2d(Network):
    """15 545 weights with one channel. Input (view, channel, row, column), float32 in [0, 1].

    Rows never mix: GroupNorm, no BatchNorm. The first convolution has no norm: absolute intensity (HU) stays visible.
    """

    patch_voxels_least: ClassVar[int] = 8
    rows_at_once: ClassVar[int] = 32

    def __init__(self, *, channels: int, outputs: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, 32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.norm3 = nn.GroupNorm(8, 32)
        self.embedding = nn.Linear(16 + 32 + 32 + 32, EMBEDDING)
        self.head = nn.Linear(EMBEDDING, outputs)

    @override
    def embed(self, views: Tensor) -> Tensor:
        """Return the embedding, (view, EMBEDDING); its squared length is about 1 on images of the prior."""
        first = torch.relu(self.conv1(views))
        second = torch.relu(self.norm2(self.conv2(nn.functional.max_pool2d(first, 2))))
        third = torch.relu(self.norm3(self.conv3(nn.functional.max_pool2d(second, 2))))
        pooled = torch.cat([first.mean((2, 3)), second.mean((2, 3)), third.mean((2, 3)), third.amax((2, 3))], dim=1)
        embedded: Tensor = self.embedding(pooled)
        return embedded
