"""Where the engine computes: on a GPU whose clipped sums were tried here and are right, else on the processor; and why."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from client.engine.batch import packed
from client.engine.clipped import clipped_sum
from common.networks.standardised import StandardisedConv2d

__all__ = ["Device", "picked", "tried"]

DIFFERENCE_MOST: Final = 3e-6  # relative; reference training.md 1.3, u: float32 with exact products, not TF32 or half precision
_PATIENTS, _CLIP_NORM = 12, 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of torch's by name, and in words what was found."""

    name: str
    said: str


@lru_cache(maxsize=1)
def picked() -> Device:
    """Return the device on which this process trains; the same for its life."""
    if not torch.cuda.is_available():
        return Device(name="cpu", said="Training runs on the processor: torch sees no GPU.")
    return tried("cuda")


def tried(name: str) -> Device:
    """Return device `name` where a clipped sum of made-up patients is there what float64 says, else the processor.

    A device that is absent, full, or that computes in less than float32 gives the processor; nothing is raised.
    """
    try:
        found = _difference(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's words for a device that does not work
        return Device(name="cpu", said=f"Training runs on the processor: {name} failed a trial ({type(error).__name__}).")
    if not found <= DIFFERENCE_MOST:
        return Device(name="cpu", said=f"Training runs on the processor: sums by {name} are {found:.1e} off.")
    called = torch.cuda.get_device_name() if name == "cuda" else name
    return Device(name=name, said=f"Training runs on {called}: its sums are right to {found:.1e}.")


def _difference(name: str) -> float:
    """Return how far the sum on a device in float32 is from the processor's in float64, relative to its length."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):  # no weights are drawn: torch's own generator is not touched
        network = nn.Sequential(
            *(nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Tanh()),
            *(StandardisedConv2d(16, 32, 3, padding=1, stride=2), nn.GroupNorm(4, 32), nn.Tanh()),
            *(nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 16, 1), nn.Flatten(0)),
        )
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    views = torch.randn(_PATIENTS, 2, 12, 12, generator=generator).numpy()
    bags = [(float(at % 2), (at,)) for at in range(_PATIENTS)]
    sums = []
    for device, kind in (("cpu", torch.float64), (name, torch.float32)):
        placed = network.to(device=device, dtype=kind)
        batches = (one.to(device).of(kind) for one in packed(views.astype(np.float32), bags=bags, rows_at_once=4))
        found = clipped_sum(placed, batches, loss=_loss, clip_norm=_CLIP_NORM)
        sums.append(torch.cat([part.cpu().ravel() for part in found.values()]))
    return float((sums[1] - sums[0]).norm() / sums[0].norm())


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
