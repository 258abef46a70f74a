"""A convolution's per-patient weight gradients, never instantiated: exact Gram norms, and a product a kernel element.

A patient's gradient is G_d = sum_t g_t x_{t+d}^T for each kernel element d: over the output positions t whose input t + d lies
in the image, so that no product with padding is made (on a 2 x 2 image five of nine are). The norm takes one Gram of inputs:
||G||^2 = sum_{t,t'} (g_t.g_t') sum_d (x_{t+d}.x_{t'+d}). As in outer.py it is computed in float64, and never too small.
"""

import itertools
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
        self._left, self._right = outputs.detach(), inputs.detach()
        self._met = geometry.meetings(inputs=tuple(inputs.shape[2:]), outputs=tuple(outputs.shape[2:]))

    @override
    def grams(self) -> tuple[Tensor, Tensor]:
        """Return g_t.g_t' and a_t.a_t', (patient, t, t'), of positions over a patient's views; a_t is what position t sees."""
        views = self._views
        left, between = (_gram(rows.double(), views=views) for rows in (self._left, self._right))
        patients, shape = len(left), [views, *self._right.shape[2:]]
        between = between.flatten(1).t().contiguous()  # patients last: long runs to add
        for axis, met in enumerate(self._met, start=1):  # the sum over kernel elements, axis by axis
            before, after, size = math.prod(shape[:axis]), math.prod(shape[axis + 1 :]), self._left.shape[1 + axis]
            summed = between.new_zeros(before, size, after, before, size, after, patients)
            between = between.view(before, shape[axis], after, before, shape[axis], after, patients)
            for out, there in met:
                summed[:, out, :, :, out] += between[:, there, :, :, there]
            between, shape[axis] = summed, size
        return left, between.view(-1, patients).t().contiguous().view_as(left)

    @override
    def room(self) -> Tensor:
        """Return room for the total, (out, in, *kernel), in memory (out, *kernel, in): each product fits in as it is."""
        out, seen, *kernel = self._geometry.weight
        return torch.empty(out, *kernel, seen, dtype=torch.float64, device=self._left.device).movedim(-1, 1)

    @override
    def add(self, factors: Tensor, *, into: Tensor, beta: int) -> None:
        rows = factors.repeat_interleave(self._views)
        kept = rows != 0
        every, axes = bool(kept.all()), range(2, self._left.ndim)
        left, right = (one if every else one[kept] for one in (self._left, self._right))
        left, right = (one.permute(*axes, 0, 1).contiguous().double() for one in (left, right))
        self._add(left * rows[kept, None], right, into=into, beta=beta)

    def _add(self, left: Tensor, right: Tensor, *, into: Tensor, beta: int) -> None:
        """Add the sum over rows of their gradients to beta times `into`; `left` and `right` are (*axes, row, channel)."""
        by_element = into.view(*into.shape[:2], math.prod(into.shape[2:]))
        for at, one in enumerate(itertools.product(*self._met)):
            out, there = zip(*one, strict=True)
            by_element[:, :, at].addmm_(left[out].flatten(0, -2).t(), right[there].flatten(0, -2), beta=beta)


def _gram(rows: Tensor, *, views: int) -> Tensor:
    """Return the products of all positions of all views of a patient, (patient, t, t'), from (row, channel, *axes)."""
    if views == 1:
        flat = rows.flatten(2)
        return torch.bmm(flat.transpose(1, 2), flat)
    by_patient = rows.flatten(2).transpose(1, 2).reshape(len(rows) // views, -1, rows.shape[1])
    return torch.bmm(by_patient, by_patient.transpose(1, 2))
