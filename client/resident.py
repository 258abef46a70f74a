"""A cohort's views on a GPU, with their augmentations: moved once and kept between rounds, where its memory has room."""

import weakref
from collections.abc import Collection
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client import augment

__all__ = ["SHARE", "free_bytes", "kept", "release"]

SHARE: Final = 0.5  # of the device's free memory at most; the rest is for micro-batches and per-patient gradients

_held: dict[str, tuple[weakref.ref[NDArray[np.float32]], int, Tensor]] = {}  # one cohort for each device, while it is in use


def kept(views: NDArray[np.float32], *, augmentations: int, device: str) -> Tensor | None:
    """Return augment.augmented views on `device`, the same tensor while the cohort lives; its rows are those of `augmented`.

    None where they are to travel micro-batch by micro-batch: on the processor, in whose memory they are; where they take more
    than SHARE of the free memory; and views that could still be written to. Memory is given back when the cohort goes.
    """
    found = _held.get(device)
    if found is not None and found[0]() is views and found[1] == augmentations:
        return found[2]
    found, _ = None, _held.pop(device, None)
    if views.flags.writeable or not 0 < views.nbytes * (1 + augmentations) <= SHARE * free_bytes(device):
        return None
    wide, _ = augment.augmented(views, bags=[], number=augmentations)
    try:
        moved = torch.from_numpy(np.require(wide, requirements=["C", "W"])).to(device)
    except torch.OutOfMemoryError:  # somebody else was faster
        return None

    def gone(ref: weakref.ref[NDArray[np.float32]]) -> None:
        held = _held.get(device)
        if held is not None and held[0] is ref:
            del _held[device]

    _held[device] = (weakref.ref(views, gone), augmentations, moved)
    return moved


def release(*, beside: Collection[str]) -> None:
    """Give back the memory of all devices but those `beside`: one that is not in use may be in want of it."""
    for name in _held.keys() - {*beside}:
        _held.pop(name, None)  # its cohort may have gone meanwhile


def free_bytes(device: str) -> int:
    """Return how much this process could still take of a GPU's memory; 0 for another device."""
    if not device.startswith("cuda"):
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
