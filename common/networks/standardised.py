"""Convolutions whose filters are standardised before use: mean zero, and a variance of one over their fan-in.

Source: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019; its gain for
private training: De et al., Unlocking High-Accuracy Differentially Private Image Classification through Scale, 2022.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["StandardisedConv2d", "StandardisedConv3d"]

EPSILON = 1e-10  # of a filter's variance: a constant filter acts as zero


class StandardisedConv2d(nn.Conv2d):
    """Conv2d that acts with (w - mean w) / sqrt((var w + EPSILON) * fan-in) in place of each filter w."""

    def standardised(self) -> tuple[Tensor, Tensor]:
        """Return the weight as used, and 1 / sqrt((var w + EPSILON) * fan-in) of each filter, (out,)."""
        return _standardised(self.weight)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Convolve with the standardised weight."""
        found: Tensor = self._conv_forward(input, self.standardised()[0], self.bias)
        return found


class StandardisedConv3d(nn.Conv3d):
    """The same in three dimensions."""

    def standardised(self) -> tuple[Tensor, Tensor]:
        """Return the weight as used, and 1 / sqrt((var w + EPSILON) * fan-in) of each filter, (out,)."""
        return _standardised(self.weight)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Convolve with the standardised weight."""
        found: Tensor = self._conv_forward(input, self.standardised()[0], self.bias)
        return found


def _standardised(weight: Tensor) -> tuple[Tensor, Tensor]:
    flat = weight.flatten(1)
    variance, mean = torch.var_mean(flat, dim=1, correction=0)
    scale = ((variance + EPSILON) * flat.shape[1]).rsqrt()
    return ((flat - mean[:, None]) * scale[:, None]).view_as(weight), scale
