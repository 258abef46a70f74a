"""A convolution's per-patient weight gradients, never instantiated: exact Gram norms, and a product a kernel element.

A patient's gradient is G_d = sum_t g_t x_{t+d}^T for each kernel element d: over the output positions t whose input t + d lies
in the image, so that no product with padding is made (on a 2 x 2 image five of nine are). The norm takes one Gram of inputs:
||G||^2 = sum_{t,t'} (g_t.g_t') sum_d (x_{t+d}.x_{t'+d}). As in outer.py it is computed in float64, and never too small.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from client.engine import blas
from client.engine.geometry import Geometry
from client.engine.outer import Products
from common.networks.standardised import project

__all__ = ["AT_ONCE", "Taps"]

AT_ONCE = 128  # filters whose gradients are made and projected at once: few for the caches, many for the products


class Taps(Products):
    """Gradients that are never instantiated, from rows of input, (row, in, *axes), and output gradient, (row, out, *axes)."""

    def __init__(
        self, inputs: Tensor, outputs: Tensor, *, geometry: Geometry, views: int, filters: Tensor | None = None
    ) -> None:
        """Take rows of patients with `views` rows each, and the standardised weight if there is one; groups = 1."""
        self._geometry, self._views = geometry, views
        self._filters = None if filters is None else filters.detach().flatten(1)
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

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return self._geometry.weight

    @override
    def add(self, factors: Tensor, *, into: Tensor, add: bool) -> None:
        rows = factors.repeat_interleave(self._views)
        kept = rows != 0
        every, axes = bool(kept.all()), range(2, self._left.ndim)
        left, right = (one if every else one[kept] for one in (self._left, self._right))
        left, right = (one.permute(*axes, 0, 1).contiguous().double() for one in (left, right))
        write, total = self._writer(left * rows[kept, None], right), into.view(len(into), -1)
        for first in range(0, len(total), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            part = torch.empty_like(total[some]) if add else total[some]
            write(some, part.view(len(part), into.shape[1], -1))
            if self._filters is not None:
                project(part, self._filters[some])
            if add:
                total[some] += part

    def _writer(self, left: Tensor, right: Tensor) -> Callable[[slice, Tensor], None]:
        """Return what writes the sum over rows of some filters' gradients, (filter, in, kernel element).

        `left` and `right` are (*axes, row, channel).
        """
        pairs = [tuple(zip(*one, strict=True)) for one in itertools.product(*self._met)]

        def write(some: slice, part: Tensor) -> None:
            found = part.new_empty(len(part), len(pairs), part.shape[1])
            for element, (out, there) in enumerate(pairs):  # one at a time: what meets is a copy
                outputs, inputs = left[out][..., some].flatten(0, -2), right[there].flatten(0, -2)
                blas.put(outputs.t(), inputs, into=found[:, element], add=False)
            part.copy_(found.transpose(1, 2))

        return write


def _gram(rows: Tensor, *, views: int) -> Tensor:
    """Return the products of all positions of all views of a patient, (patient, t, t'), from (row, channel, *axes)."""
    if views == 1:
        flat = rows.flatten(2)
        return blas.multiplied(flat.transpose(1, 2), flat)
    by_patient = rows.flatten(2).transpose(1, 2).reshape(len(rows) // views, -1, rows.shape[1])
    return blas.multiplied(by_patient, by_patient.transpose(1, 2))
