"""A small 3-D GroupNorm CNN for patches of a volume."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.networks.network import Network

__all__ = ["Cnn3d"]


class Cnn3d(Network):
    """70 thousand weights. Input (view, channel, z, y, x), float32 in [0, 1]; embedding of 64."""

    patch_voxels_least: ClassVar[int] = 8
    rows_at_once: ClassVar[int] = 8

    def __init__(self, *, channels: int, outputs: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(channels, 16, 3, padding=1), nn.GroupNorm(8, 16)
        self.conv2, self.norm2 = nn.Conv3d(16, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.conv3, self.norm3 = nn.Conv3d(32, 64, 3, padding=1), nn.GroupNorm(8, 64)
        self.head = nn.Linear(64, outputs)

    @override
    def embed(self, views: Tensor) -> Tensor:
        """Return the mean over positions of the last layer, (view, 64)."""
        first = nn.functional.max_pool3d(torch.relu(self.norm1(self.conv1(views))), 2)
        second = nn.functional.max_pool3d(torch.relu(self.norm2(self.conv2(first))), 2)
        return torch.relu(self.norm3(self.conv3(second))).mean((2, 3, 4))
