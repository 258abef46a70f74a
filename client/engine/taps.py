"""A convolution's per-patient weight gradients, never instantiated: exact Gram norms, and a product a kernel element.

A patient's gradient is G_d = sum_t g_t x_{t+d}^T for each kernel element d: over the output positions t whose input t + d lies
in the image, so that no product with padding is made (on a 2 x 2 image five of nine are). The norm takes one Gram of inputs:
||G||^2 = sum_{t,t'} (g_t.g_t') sum_d (x_{t+d}.x_{t'+d}). As in outer.py it is computed in float64, and never too small.
"""

import math

import torch
from torch import Tensor
from typing_extensions import override

from client.engine.geometry import Geometry
from client.engine.outer import Products

__all__ = ["Taps"]


class Taps(Products):
    """Gradients that are never instantiated, from rows of input, (row, in, *axes), and output gradient, (row, out, *axes)."""

    def __init__(self, inputs: Tensor, outputs: Tensor, *, geometry: Geometry, views: int) -> None:
        """Take rows of patients with `views` rows each; groups = 1."""
        self._geometry, self._views = geometry, views
        self._left, self._right = outputs.double(), inputs.double()
        self._met = geometry.meetings(inputs=tuple(inputs.shape[2:]), outputs=tuple(outputs.shape[2:]))

    @override
    def grams(self) -> tuple[Tensor, Tensor]:
        """Return g_t.g_t' and a_t.a_t', (patient, t, t'), of positions over a patient's views; a_t is what position t sees."""
        views, seen = self._views, tuple(self._right.shape[2:])
        left, right = (_by_patient(rows, views=views) for rows in (self._left, self._right))
        between = torch.bmm(right, right.transpose(1, 2)).view(-1, views, *seen, views, *seen)
        shape = tuple(self._left.shape[2:])
        summed = between.new_zeros((len(between), views, *shape, views, *shape))
        every = slice(None)
        for out, there in self._met:
            summed[(every, every, *out, every, *out)] += between[(every, every, *there, every, *there)]
        return torch.bmm(left, left.transpose(1, 2)), summed.view(len(between), left.shape[1], left.shape[1])

    def room(self) -> Tensor:
        """Return zeros for the total, (out, in, *kernel), in memory (out, *kernel, in): each product fits in as it is."""
        out, seen, *kernel = self._geometry.weight
        made = torch.zeros(out, *kernel, seen, dtype=torch.float64, device=self._left.device)
        return made.movedim(-1, 1)

    def deliver(self, factors: Tensor, *, into: Tensor) -> None:
        """Add one product over all patients for each kernel element, in float64."""
        rows = factors.repeat_interleave(self._views)
        kept = rows != 0
        if not bool(kept.any()):
            return
        every = bool(kept.all())
        left, right = (one if every else one[kept] for one in (self._left, self._right))
        axes = range(2, left.ndim)
        left = left * rows[kept].view(-1, *[1] * (left.ndim - 1))
        left, right = (one.permute(*axes, 0, 1).contiguous() for one in (left, right))
        by_element = into.view(*into.shape[:2], math.prod(into.shape[2:]))
        for at, (out, there) in enumerate(self._met):
            by_element[:, :, at].addmm_(left[out].flatten(0, -2).t(), right[there].flatten(0, -2))


def _by_patient(rows: Tensor, *, views: int) -> Tensor:
    """Return (patient, view and position, channel) of (row, channel, *axes)."""
    return rows.flatten(2).transpose(1, 2).reshape(len(rows) // views, -1, rows.shape[1])
