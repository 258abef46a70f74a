"""Gradient inversion: the image that can be read from a first fully connected layer, and what is left of it in what leaves.

The layer's weight gradient divided by its bias gradient is the input image (Geiping et al. 2020, proposition 3.1): from a plain
gradient it is exact, and clipping alone, which only scales, hides nothing. Synthetic discs, no patient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.attack.canaries import mechanism_of
from client.attack.draws import opened_sum
from client.engine.batch import packed
from client.engine.clipped import clipped_sum

SIDE: Final = 24
HIDDEN: Final = 32
TOGETHER: Final = 32  # patients in a sum
NOISE: Final = Decimal(1)
CLIP_NORM: Final = 1.0
UNCLIPPED: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of gradient that is read: of how many patients, and what was done to it."""

    name: str
    patients: int
    clipped: bool = False
    noised: bool = False


KINDS: Final = (
    Kind(name="plain gradient of one patient", patients=1),
    Kind(name="clipped", patients=1, clipped=True),
    Kind(name=f"clipped, sum of {TOGETHER} patients", patients=TOGETHER, clipped=True),
    Kind(name="clipped, with noise", patients=1, clipped=True, noised=True),
    Kind(name=f"clipped, sum of {TOGETHER} patients, with noise: what leaves", patients=TOGETHER, clipped=True, noised=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read from one kind of gradient: its peak signal-to-noise ratio in dB, against the image of the first patient."""

    name: str
    psnr_db: float
    leaves: bool  # noised as what leaves is: a blank guess must be better


def run(*, progress: Callable[[], None] = lambda: None) -> tuple[list[Read], float]:
    """Return what is read from each of KINDS, and the PSNR of a blank guess; `progress` is called after each."""
    pictures = _discs(TOGETHER)
    network = _network()
    found = []
    for kind in KINDS:
        gradient = _gradient(network, pictures[: kind.patients], clip_norm=CLIP_NORM if kind.clipped else UNCLIPPED)
        if kind.noised:
            gradient = _noised(gradient)
        found.append(Read(name=kind.name, psnr_db=_psnr(_image(gradient), pictures[0]), leaves=kind.noised))
        progress()
    blank = np.full_like(pictures[0], float(pictures.mean()))
    return found, _psnr(blank, pictures[0])


def _network() -> nn.Module:
    """Return a fully connected network with fixed weights: what a coordinator that wants images would send."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, HIDDEN), nn.Linear(HIDDEN, 1))
    for number, parameter in enumerate(network.parameters()):
        shape = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape)
        parameter.data = torch.sin(1.7 * shape + number) / 20
    return network


def _discs(count: int) -> NDArray[np.float32]:
    """Return discs of different places and sizes, (image, 1, row, column), between 0 and 1."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    found = []
    for at in range(count):
        turn = 2 * np.pi * at / count
        away = np.hypot(rows - 0.5 - 0.25 * np.sin(turn), columns - 0.5 - 0.25 * np.cos(turn))
        found.append(np.where(away < 0.12 + 0.05 * (at % 4), 0.9, 0.15) + 0.05 * np.sin(9 * rows + at))
    return np.array(found, np.float32)[:, None]


def _gradient(network: nn.Module, pictures: NDArray[np.float32], *, clip_norm: float) -> dict[str, NDArray[np.float64]]:
    bags = [(1.0, (row,)) for row in range(len(pictures))]
    total = clipped_sum(network, packed(pictures, bags=bags, rows_at_once=1), loss=_loss, clip_norm=clip_norm)
    return {name: tensor.numpy() for name, tensor in total.items()}


def _noised(gradient: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return the gradient as the coordinator opens it: a sum over hospitals, through the product's noise and masks."""
    flat = np.concatenate([array.ravel() for array in gradient.values()])
    mechanism = mechanism_of(noise=NOISE, rate=Decimal(1), dimension=len(flat), patients=TOGETHER)
    opened = opened_sum(flat, mechanism=mechanism).astype(np.float64) * mechanism.grid_step
    parts = np.split(opened, np.cumsum([array.size for array in gradient.values()])[:-1])
    return {name: part.reshape(array.shape) for (name, array), part in zip(gradient.items(), parts, strict=True)}


def _image(gradient: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    weights, biases = gradient["1.weight"], gradient["1.bias"]
    best = int(np.argmax(np.abs(biases)))
    return np.asarray(np.clip(weights[best] / biases[best], 0, 1).reshape(1, SIDE, SIDE))


def _psnr(read: NDArray[np.floating], true: NDArray[np.floating]) -> float:
    return float(-10 * np.log10(max(float(np.mean(np.square(read - true))), 1e-12)))


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), targets, reduction="none")
