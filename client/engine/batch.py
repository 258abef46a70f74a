"""Patients' bags of views packed into micro-batches whose shape says nothing about who was sampled.

A patient's shape is that of the own bag alone: its views, filled up to a power of two with copies of weight zero. Patients
of one shape fill micro-batches of a fixed number of places, the last one with absent patients. See independence.py.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Bag", "Batch", "packed", "places"]

Views = NDArray[np.float32] | Tensor  # (view, channel, *axes)
Bag = tuple[float, tuple[int, ...]]  # label, rows of the views; no bag is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch: `places` patients of `views` rows each, adjacent; the first `present` places are taken.

    views (row, channel, *axes) float32; targets and weights (row,) float32; an absent patient's rows are zeros of weight zero.
    """

    views: Tensor
    targets: Tensor
    weights: Tensor
    views_per_patient: int
    present: int

    @property
    def places(self) -> int:
        """Return the number of patients that fit."""
        return len(self.weights) // self.views_per_patient

    def to(self, device: str) -> "Batch":
        """Return the same micro-batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("views", "targets", "weights")}
        return replace(self, **moved)

    def of(self, kind: torch.dtype) -> "Batch":
        """Return the same micro-batch with numbers of another kind."""
        return replace(self, **{name: getattr(self, name).to(kind) for name in ("views", "targets", "weights")})


def places(rows_at_once: int, *, views: int) -> int:
    """Return how many patients of `views` rows each make a micro-batch of about `rows_at_once` rows."""
    return max(1, rows_at_once // views)


def packed(views: Views, *, bags: Sequence[Bag], rows_at_once: int) -> Iterator[Batch]:
    """Yield the micro-batches of all `bags`; each view of a patient has weight 1 / (number of the patient's views).

    `views` are an array, or a tensor on any device: the micro-batches are where it is.
    No bags give no micro-batches. Raises ValueError on an empty bag.
    """
    shapes: defaultdict[int, list[Bag]] = defaultdict(list)
    for bag in bags:
        if not bag[1]:
            raise ValueError("a bag is empty")
        shapes[1 << (len(bag[1]) - 1).bit_length()].append(bag)
    for size, group in sorted(shapes.items()):
        room = places(rows_at_once, views=size)
        for first in range(0, len(group), room):
            yield _batch(views, bags=group[first : first + room], size=size, room=room)


def _batch(views: Views, *, bags: Sequence[Bag], size: int, room: int) -> Batch:
    targets, weights, index = np.zeros(room * size, np.float32), np.zeros(room * size, np.float32), list[int]()
    for place, (label, rows) in enumerate(bags):
        start = place * size
        index += rows + rows[:1] * (size - len(rows))
        targets[start : start + size] = label
        weights[start : start + len(rows)] = 1 / len(rows)
    if isinstance(views, Tensor):
        shown = views.new_zeros((room * size, *views.shape[1:]))
        shown[: len(index)] = views[torch.tensor(index, device=views.device)]
    else:
        shown = torch.zeros((room * size, *views.shape[1:]))
        shown.numpy()[: len(index)] = views[index]
    return Batch(
        views=shown,
        targets=torch.from_numpy(targets).to(shown.device),
        weights=torch.from_numpy(weights).to(shown.device),
        views_per_patient=size,
        present=len(bags),
    )
