"""What frozen layers make of views and their augmentations: a view costs when its patient is first sampled, then nothing.

A step asks for the views of its sampled patients; those that were asked for before are in memory, whatever study, cohort or
step it was. Features are public weights' answer to one view alone: views are embedded one by one, so no patient's bits depend
on another's.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client import augment
from common.networks.network import Network

__all__ = ["REMEMBERED", "embedded"]

REMEMBERED: Final = 1 << 16  # views, each with its copies: at most 1 GiB of the widest network's features

Features = NDArray[np.float32]

_kept: OrderedDict[bytes, Features] = OrderedDict()


def embedded(
    model: Network, *, frozen: str, views: NDArray[np.float32], rows: Sequence[int], augmentations: int
) -> NDArray[np.float64]:
    """Return the features of the views in `rows`, each followed by those of its copies, (len(rows) * (1 + copies), feature).

    views: as augment.augmented takes them; `frozen` names the layers before the head: one name, one set of weights.
    Raises ValueError as augment.augmented does, and without any row.
    """
    found = [_of_view(model, frozen=frozen, view=views[row], augmentations=augmentations) for row in rows]
    return np.concatenate(found).astype(np.float64)


def _of_view(model: Network, *, frozen: str, view: NDArray[np.float32], augmentations: int) -> Features:
    """Return the features of a view and its copies, (1 + copies, feature); known again by its numbers, wherever they lie."""
    digest = hashlib.sha256(f"{frozen} {view.shape} {augmentations}\n".encode())
    digest.update(np.ascontiguousarray(view).data)
    key = digest.digest()
    found = _kept.pop(key, None)
    if found is None:
        shown, _ = augment.augmented(view[None], bags=[], number=augmentations)
        with torch.no_grad():
            parts = [model.embed(torch.from_numpy(np.array(one[None], order="C"))) for one in shown]
        found = torch.cat(parts).numpy()
    _kept[key] = found
    while len(_kept) > REMEMBERED:
        _kept.popitem(last=False)
    return found
