"""What the same releases cost with other neighbours, by privacy-loss distributions: tighter, for runs that were planned.

The notions are those of common/audit/neighbours.py. dp-accounting knows a patient who is replaced (REPLACE_ONE) and one who is
set to zero (REPLACE_SPECIAL, which costs what adding and removing does); a patient in two hospitals of a round is its mixture
of Gaussians, on coarser grids because that library inverts its loss point by point. The second PLD
(common/audit/recompute.py) and PRV are for a patient who is added or removed alone.
Source: Doroshenko et al. 2022; Choquette-Choo et al. 2024.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

from common.audit.neighbours import Neighbours, Pair, releases_own
from common.ledger import accounting
from common.ledger.accounting import Tally
from common.mechanism import GaussianShare

MIXTURE_FINE_FROM: Final = 1.0  # a noise multiplier: below it the losses of a mixture reach far, each a root to find
GRID_FAR: Final = 1e-2  # for those


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """`count` equal steps; `once`: a patient in two hospitals enters each once, as their own releases."""

    sigma: float
    rate: float
    count: int
    once: bool


def epsilons(releases: Iterable[GaussianShare], *, delta: Decimal, once: Decimal) -> Neighbours:
    """Return what the releases cost at `delta`, of which `once` is the PLD for a patient who is added or removed.

    Valid where that one is: for releases whose parameters and number were fixed before the first. Infinite above 512, and for
    noise below 0.3 of the sensitivity. Raises as common/ledger/accounting.py does.
    """
    counts = Counter(releases)
    return Neighbours(
        add_or_remove_one=once,
        zero_out=once,
        replace_one=_epsilon(counts, delta=delta, pair="replace"),
        two_hospitals=_epsilon(counts, delta=delta, pair="twice"),
    )


def _epsilon(counts: Counter[GaussianShare], *, delta: Decimal, pair: Pair) -> Decimal:
    spent, steps = Tally(), Counter[tuple[float, float, bool]]()
    for one, count in counts.items():
        own = releases_own(one, pair)
        times = 2 * count if own else count
        spent.add(one, times=times)
        sigma, rate = float(accounting.effective_noise_multiplier(one)), float(one.sampling_rate)
        steps[sigma, rate, own] += times * one.compositions
    parts = tuple(_Part(sigma=sigma, rate=rate, count=count, once=own) for (sigma, rate, own), count in sorted(steps.items()))
    return accounting.round_up(spent.with_discreteness(delta=delta, accountant=lambda left: _pld(parts, left, pair)))


@lru_cache(maxsize=256)  # hospitals of one run ask for the same composition
def _pld(parts: tuple[_Part, ...], delta: float, pair: Pair) -> float:
    mean = sum((1 if one.once else 4) * one.count / one.sigma**2 / 2 for one in parts if one.rate == 1)
    if mean > accounting.EPSILON_PLD_MOST or any(one.sigma < accounting.FRACTIONS_FROM for one in parts):
        return math.inf

    import dp_accounting  # noqa: PLC0415  (takes seconds)
    from dp_accounting import pld  # noqa: PLC0415
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent  # noqa: PLC0415

    relation = dp_accounting.NeighboringRelation

    def event(one: _Part) -> dp_accounting.DpEvent:
        if pair == "twice" and not one.once:
            none = 1 - one.rate
            weights = [none * none, 2 * one.rate * none, one.rate**2]
            return (
                MixtureOfGaussiansDpEvent(one.sigma, [0, 1, 2], weights)
                if one.rate < 1
                else dp_accounting.GaussianDpEvent(one.sigma / 2)
            )
        plain = dp_accounting.GaussianDpEvent(one.sigma)
        return dp_accounting.PoissonSampledDpEvent(one.rate, plain) if one.rate < 1 else plain

    def found(grid: float) -> float:
        differs = relation.REPLACE_ONE if pair == "replace" else relation.ADD_OR_REMOVE_ONE
        accountant = pld.PLDAccountant(differs, value_discretization_interval=grid)
        for one in parts:
            accountant.compose(event(one), one.count)
        return float(accountant.get_epsilon(delta))

    about = found(accounting.GRID_ROUGH)
    if about >= accounting.EPSILON_PLD_MOST:
        return math.inf
    if pair == "twice":
        return found(accounting.GRID_COARSE if min(one.sigma for one in parts) >= MIXTURE_FINE_FROM else GRID_FAR)
    fine = about <= accounting.EPSILON_FINE_MOST and len(parts) <= accounting.FINE_GROUPS_MOST
    return found(accounting.GRID if fine else accounting.GRID_COARSE)
