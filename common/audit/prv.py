"""Epsilon by a third accountant, numerical composition of privacy random variables (PRV), written by that method's authors.

It shares no code with the two of privacy-loss distributions and gives bounds on both sides. Source: Gopi, Lee, Wutschitz 2021.
"""

import math
from collections.abc import Sequence
from typing import Final

from common.audit.recompute import Step
from common.errors import AccountantsDisagree

EPSILON_ERROR: Final = 0.01  # half the distance between the bounds
DELTA_ERROR: Final = 1e-3  # of delta
DELTA_LEAST: Final = 1e-10  # below it the rounding of its Fourier transforms shows
POINTS_MOST: Final = 1 << 21  # of all grids together: half a minute
SLACK: Final = 0.005  # by which PLD may be above the upper bound
ROUNDED: Final = 1e-3  # by which PLD may be above RDP: the grid that it is rounded up to


def epsilon(steps: Sequence[Step], *, delta: float) -> float:
    """Return an upper bound of epsilon at `delta`, at most 2 * EPSILON_ERROR above the truth; adjacency: add or remove one.

    No step: 0. Infinite where this method cannot say it: delta below DELTA_LEAST, a composition larger than POINTS_MOST
    holds, or noise so small that the library finds its grid too coarse, or gives no number.
    """
    if not steps:
        return 0.0
    if delta < DELTA_LEAST:
        return math.inf
    from prv_accountant import (  # noqa: PLC0415  (slow to import)
        GaussianMechanism,
        PoissonSubsampledGaussianMechanism,
        PRVAccountant,
    )
    from prv_accountant.accountant import compute_safe_domain_size  # noqa: PLC0415

    variables = [
        GaussianMechanism(noise_multiplier=step.sigma)
        if step.rate == 1
        else PoissonSubsampledGaussianMechanism(noise_multiplier=step.sigma, sampling_probability=step.rate)
        for step in steps
    ]
    counts, error = [step.count for step in steps], DELTA_ERROR * delta
    width = compute_safe_domain_size(variables, counts, eps_error=EPSILON_ERROR, delta_error=error)
    mesh = EPSILON_ERROR / math.sqrt(sum(counts) / 2 * math.log(12 / error))
    if not 2 * width / mesh * len(steps) <= POINTS_MOST:
        return math.inf
    try:
        accountant = PRVAccountant(prvs=variables, eps_error=EPSILON_ERROR, delta_error=error, max_self_compositions=counts)
        _, _, upper = accountant.compute_epsilon(delta=delta, num_self_compositions=counts)
    except RuntimeError:  # what it raises where its grid is too coarse
        return math.inf
    return math.inf if math.isnan(upper) else max(0.0, float(upper))


def check_agreement(*, pld: float, prv: float, rdp: float) -> None:
    """Raise AccountantsDisagree unless PRV - 2 * EPSILON_ERROR <= PLD <= PRV + SLACK and PLD <= RDP.

    PRV is an upper bound that lies EPSILON_ERROR above its own estimate; so it stands that far above a right PLD, too.
    """
    if not (prv - 2 * EPSILON_ERROR <= pld <= prv + SLACK and pld <= rdp + ROUNDED):
        raise AccountantsDisagree(
            f"Epsilon is {pld:.6f} by PLD, at most {prv:.6f} by PRV and {rdp:.6f} by RDP: these do not belong together.",
            action="Do not quote any of them; report this with the bundle.",
        )
