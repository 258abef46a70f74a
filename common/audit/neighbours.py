"""What the same releases cost with other neighbours: a patient replaced, set to zero, or in two hospitals of every round.

All by Renyi accounting, which holds for releases chosen one after another, from the one-dimensional pairs of distributions
that dominate a step; p is the density with the patient, q the sampling rate, sigma relative to the clip norm:

| neighbours | with | without |
|---|---|---|
| added or removed; set to zero | (1 - q) N(0) + q N(1) | N(0) |
| replaced by another | (1 - q) N(0) + q N(1) | (1 - q) N(0) + q N(-1) |
| in two hospitals, added or removed | N(0), N(1), N(2) by Binomial(2, q) | N(0) |

Setting a patient's contribution to zero costs what removing does, because sums are divided by declared numbers only. A patient
in two hospitals is drawn by each on its own and pulls the sum that both are in twice; where every hospital's own noise is the
whole noise, the two releases compose instead. Source: Mironov 2017; Choquette-Choo et al. 2024 (mixtures of Gaussians); Zhu,
Dong, Wang 2022 (dominating pairs).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from common.ledger import accounting
from common.ledger.accounting import FRACTIONAL_ORDERS, FRACTIONS_FROM, INTEGER_ORDERS, SMALL_ORDERS, Tally
from common.mechanism import GaussianShare

Float = NDArray[np.float64]
Pair = Literal["replace", "twice"]

LARGE_ORDERS_FROM: Final = 4.0  # a noise multiplier: below it the quadrature of orders above 64 is long and they are never best
ORDERS: Final = np.concatenate([FRACTIONAL_ORDERS, INTEGER_ORDERS])
TAIL: Final = 14  # standard deviations beyond which no density counts
POINTS: Final = 8  # per standard deviation, or per its square: as in common/ledger/accounting.py, and for the same zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Epsilons (RDP) of the same releases, rounded up, under each notion; infinite where there is no bound."""

    add_or_remove_one: Decimal
    zero_out: Decimal
    replace_one: Decimal
    two_hospitals: Decimal


NOTHING: Final = Neighbours(add_or_remove_one=Decimal(0), zero_out=Decimal(0), replace_one=Decimal(0), two_hospitals=Decimal(0))


def epsilons(releases: Iterable[GaussianShare], *, delta: Decimal) -> Neighbours:
    """Return what the releases cost at `delta`; raises as common/ledger/accounting.py does. No release: zeros."""
    counts, tally = Counter(releases), Tally()
    for one, count in counts.items():
        tally.add(one, times=count)
    once = accounting.round_up(tally.epsilon_rdp(delta=delta))
    return Neighbours(
        add_or_remove_one=once,
        zero_out=once,
        replace_one=_epsilon(counts, delta=delta, pair="replace"),
        two_hospitals=_epsilon(counts, delta=delta, pair="twice"),
    )


def _epsilon(counts: Counter[GaussianShare], *, delta: Decimal, pair: Pair) -> Decimal:
    total, spent = np.zeros(len(ORDERS)), Tally()
    for one, count in counts.items():
        own = releases_own(one, pair)
        spent.add(one, times=2 * count if own else count)
        sigma, rate = float(accounting.effective_noise_multiplier(one)), float(one.sampling_rate)
        if own:
            integer, fractional = accounting.one_step_rdp(sigma, rate)
            step = 2 * np.concatenate([fractional, integer])
        else:
            step = divergences(sigma, rate, pair)
        total = total + count * one.compositions * step
    found = spent.with_discreteness(delta=delta, accountant=lambda left: accounting.convert(ORDERS, total, left))
    return accounting.round_up(found)


def releases_own(one: GaussianShare, pair: Pair) -> bool:
    """Tell whether the patient pays for each of two hospitals' releases, because each has the whole noise of its own."""
    return pair == "twice" and one.shares != one.honest


@lru_cache(maxsize=1024)
def divergences(sigma: float, rate: float, pair: Pair) -> Float:
    """Return the Renyi divergence of a step at ORDERS, the larger of both directions; infinite where it is not computed."""
    if rate == 1:
        with np.errstate(over="ignore"):
            return np.asarray(2 * ORDERS / sigma / sigma)  # two Gaussians whose means are two clip norms apart
    found = np.full(len(ORDERS), math.inf)
    if sigma < FRACTIONS_FROM:
        return found
    largest = ORDERS.max() if sigma >= LARGE_ORDERS_FROM else INTEGER_ORDERS[SMALL_ORDERS - 1]
    wanted = largest >= ORDERS
    orders = ORDERS[wanted]
    step = min(sigma, sigma * sigma) / POINTS
    x = np.arange(-2 - TAIL * sigma, 2 * orders.max() + TAIL * sigma, step)
    having = {"replace": (1 - rate, rate), "twice": ((1 - rate) ** 2, 2 * rate * (1 - rate), rate * rate)}[pair]
    with_patient = _log_ratio(x, sigma=sigma, weights=having, side=1)
    without = _log_ratio(x, sigma=sigma, weights=having, side=-1) if pair == "replace" else np.zeros(len(x))
    base = -x * x / (2 * sigma * sigma) + math.log(step / (sigma * math.sqrt(2 * math.pi)))
    directions = [(with_patient, without)] + (
        [(without, with_patient)] if pair == "twice" else []
    )  # a replacement is symmetric
    moments = [[float(logsumexp(base + order * top + (1 - order) * bottom)) for order in orders] for top, bottom in directions]
    found[wanted] = np.maximum(np.max(moments, axis=0), 0.0) / (orders - 1)
    found.setflags(write=False)
    return found


def _log_ratio(x: Float, *, sigma: float, weights: tuple[float, ...], side: int) -> Float:
    """Return the logarithm of the mixture of N(side * k), k = 0, 1 ..., by `weights`, over N(0), at x."""
    terms = [math.log(weight) + (2 * side * k * x - k * k) / (2 * sigma * sigma) for k, weight in enumerate(weights)]
    return np.asarray(logsumexp(terms, axis=0))
