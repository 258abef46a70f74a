"""What every network of a study has: an embedding of each view, a linear head after it, and rows that never mix."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

__all__ = ["Network"]


class Network(nn.Module, ABC):
    """A network with the layer `head`; its class says what images it takes and how many views fit a micro-batch."""

    channels: ClassVar[tuple[int, ...]] = (1, 2)  # windowed intensity; and an edge channel
    patch_voxels_least: ClassVar[int]
    rows_at_once: ClassVar[int]  # what stays in cache, measured by `make bench-training`
    head: nn.Linear

    @abstractmethod
    def embed(self, views: Tensor) -> Tensor:
        """Return the embedding of each view, (view, feature)."""

    @override
    def forward(self, views: Tensor) -> Tensor:
        """Return the head's outputs of each view, (view, outputs), or (view,) where it has one."""
        outputs: Tensor = self.head(self.embed(views))
        return outputs.squeeze(1) if self.head.out_features == 1 else outputs
