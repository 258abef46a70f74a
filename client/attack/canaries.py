"""Canaries in one run of steps, through the product's sampling, clipping engine and noise.

No patient is near, no ledger is charged. A canary is a synthetic patient whose image is one pixel of its own, so bright that
its gradient is clipped; the network is one linear layer, so each canary pulls one coordinate. The attacker sees every opened
sum of the honest hospitals and knows the canaries. The layer stays at zero: what a coordinator does with opened sums is
post-processing and costs no privacy.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from client.attack.draws import COLLUDERS, HOSPITALS, RING_BITS, opened_sum
from client.engine import independence
from client.engine.batch import packed
from client.engine.clipped import clipped_sum
from common.audit.attack.one_run import Plan, Seen
from common.crypto import rng
from common.mechanism import SampledStep, largest_share_bits

BRIGHT: Final = 1e6
ROWS_AT_ONCE: Final = 256
CLIP_NORM: Final = Decimal(1)
DELTA: Final = Decimal("0.00001")


class _Pixels(nn.Module):
    """One weight for each pixel; a logit per view."""

    def __init__(self, *, pixels: int) -> None:
        super().__init__()
        self.head = nn.Linear(pixels, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    @override
    def forward(self, views: Tensor) -> Tensor:
        """Return one logit per view, (view,)."""
        logit: Tensor = self.head(views).squeeze(1)
        return logit


def run(*, noise: Decimal, rate: Decimal, steps: int, canaries: int, progress: Callable[[], None] = lambda: None) -> Seen:
    """Return what is seen of `canaries`, each in with probability 1/2, over `steps`; `progress` is called after each."""
    mechanism = mechanism_of(noise=noise, rate=rate, dimension=canaries, patients=canaries)
    network = _Pixels(pixels=canaries)
    inside = rng.poisson_sample(canaries, rate=Decimal("0.5"))
    members = np.flatnonzero(inside)
    rows = independence.rows_at_once(network, shape=(canaries,), sizes=[1], wanted=ROWS_AT_ONCE, loss=_loss)
    sums = []
    for _ in range(steps):
        sampled = members[rng.poisson_sample(len(members), rate=rate)]
        total = _clipped(network, sampled, canaries=canaries, rows_at_once=rows)
        sums.append(opened_sum(total, mechanism=mechanism))
        progress()
    clip_norm = float(CLIP_NORM)
    sigma = mechanism.grid_step * 2.0**mechanism.share_bits * np.sqrt(len(HOSPITALS)) / clip_norm
    plan = Plan(noise_multiplier=float(noise), sigma=float(sigma), rate=float(rate), steps=steps, delta=DELTA)
    return Seen(plan=plan, coordinates=np.array(sums, np.float64) * (mechanism.grid_step / clip_norm), inside=inside)


def _clipped(network: _Pixels, sampled: NDArray[np.int64], *, canaries: int, rows_at_once: int) -> NDArray[np.float64]:
    """Return the clipped sum of the sampled canaries, (canary,), float64."""
    total = np.zeros(canaries)
    for first in range(0, len(sampled), rows_at_once):  # a few images at a time: one has as many pixels as there are canaries
        some = sampled[first : first + rows_at_once]
        views = np.zeros((len(some), canaries), np.float32)
        views[np.arange(len(some)), some] = BRIGHT
        bags = [(0.0, (row,)) for row in range(len(some))]
        batches = packed(views, bags=bags, rows_at_once=rows_at_once)
        total += clipped_sum(network, batches, loss=_loss, clip_norm=float(CLIP_NORM))["head.weight"].numpy().ravel()
    return total


def mechanism_of(*, noise: Decimal, rate: Decimal, dimension: int, patients: int) -> SampledStep:
    """Return a step's mechanism for so many synthetic patients, at the clip norm CLIP_NORM."""
    hospitals = len(HOSPITALS) + COLLUDERS
    return SampledStep(
        noise_multiplier=noise,
        clip_norm=CLIP_NORM,
        sampling_rate=rate,
        hospitals=hospitals,
        colluders=COLLUDERS,
        dimension=dimension,
        share_bits=largest_share_bits(
            noise_multiplier=noise,
            hospitals=hospitals,
            colluders=COLLUDERS,
            patients_per_step_max=patients,
            ring_bits=RING_BITS,
        ),
        ring_bits=RING_BITS,
        patients_per_step_max=patients,
    )


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
