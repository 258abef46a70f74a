"""Augmentation inside a patient's bag: mirrored and turned copies of each view; the bag stays one gradient, clipped once.

The copies are the other seven symmetries of the square, in a public order and without randomness: nothing is interpolated, an
edge channel stays the gradient's magnitude, and embeddings of frozen layers can be kept. A volume is turned about its axis
from foot to head, and mirrored left to right: each of its slices by the same symmetry. Privacy is that of the bag without
copies: unit patient, sensitivity clip_norm. Source: reference training.md, decision 1; De et al. 2022 (multiplicity).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.engine.batch import Bag

__all__ = ["SYMMETRIES", "augmented", "gathered", "widened"]

Views = NDArray[np.float32]

SYMMETRIES: Final = ((0, True), (2, True), (2, False), (1, False), (3, False), (1, True), (3, True))  # quarter turns, mirrored


def augmented(views: Views, *, bags: Sequence[Bag], number: int) -> tuple[Views, list[Bag]]:
    """Return the views followed by their first `number` symmetries, and bags in which each view stands beside its copies.

    views: (view, channel, row, column) or (view, channel, z, row, column), square slices, float32; of k views, copy j of
    view i is row i + j * k. With 0 nothing changes.
    Raises ValueError when `number` is not within 0 and 7, or the views are not square.
    """
    if not 0 <= number <= len(SYMMETRIES):
        raise ValueError("a square has seven symmetries besides itself")
    if views.ndim not in {4, 5} or views.shape[-2] != views.shape[-1]:
        raise ValueError("views are not square")
    if number == 0:
        return views, list(bags)
    copies = [_turned(views, quarters=quarters, mirrored=mirrored) for quarters, mirrored in SYMMETRIES[:number]]
    return np.concatenate([views, *copies]), widened(bags, views=len(views), number=number)


def widened(bags: Sequence[Bag], *, views: int, number: int) -> list[Bag]:
    """Return bags in which each of `views` views stands beside its first `number` symmetries, as `augmented` numbers them."""
    return [(label, tuple(row + copy * views for row in rows for copy in range(number + 1))) for label, rows in bags]


def gathered(views: Views, *, bags: Sequence[Bag]) -> tuple[Views, list[Bag]]:
    """Return only the views that are in a bag, and the bags that name them in their new places."""
    used = sorted({row for _, rows in bags for row in rows})
    places = {row: place for place, row in enumerate(used)}
    return views[used], [(label, tuple(places[row] for row in rows)) for label, rows in bags]


def _turned(views: Views, *, quarters: int, mirrored: bool) -> Views:
    turned = np.rot90(views, quarters, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned
