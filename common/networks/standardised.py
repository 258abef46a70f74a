"""Convolutions whose filters are standardised before use: mean zero, and a variance of one over their fan-in.

A filter w of k elements acts as u = (w - mean w) r, r = 1 / sqrt((var w + EPSILON) k). The gradient of w is P (r g), where g
is that of u and P = I - 1 1^T / k - u u^T. No eigenvalue of P is outside [0, 1]: P may be applied to a clipped sum.

Source: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019; its gain for
private training: De et al., Unlocking High-Accuracy Differentially Private Image Classification through Scale, 2022.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["StandardisedConv2d", "StandardisedConv3d", "project"]

AT_ONCE = 1 << 16  # elements of filters that are standardised at once: they stay in a core's cache
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


@torch.no_grad()
def project(gradients: Tensor, filters: Tensor) -> None:
    """Apply P to the gradients of filters as used, where they are: both (filter, element), and `filters` standardised."""
    gradients.sub_(gradients.mean(1, keepdim=True))
    used = filters.to(gradients.dtype)
    gradients.addcmul_(used, torch.linalg.vecdot(gradients, used)[:, None], value=-1)


def _standardised(weight: Tensor) -> tuple[Tensor, Tensor]:
    flat = weight.flatten(1)
    if torch.is_grad_enabled() and weight.requires_grad:
        used, scale = _of_filters(flat)
        return used.view_as(weight), scale
    used, scale = torch.empty_like(flat), flat.new_empty(len(flat))
    at_once = max(1, AT_ONCE // flat.shape[1])
    for first in range(0, len(flat), at_once):
        rows = slice(first, first + at_once)
        used[rows], scale[rows] = _of_filters(flat[rows])
    return used.view_as(weight), scale


def _of_filters(flat: Tensor) -> tuple[Tensor, Tensor]:
    centred = flat - flat.mean(1, keepdim=True)
    scale = (centred.square().sum(1) + EPSILON * flat.shape[1]).rsqrt()
    return centred * scale[:, None], scale
