"""The audit by canaries in one run: what a guesser who sees every sum should score, what it scored, and what that proves.

Half the canaries are in, at random; each owns one coordinate. The best score of a canary is the log-likelihood ratio of its
coordinate over the steps. How well it tells who was in follows from noise, rate and steps alone, without simulation.
Source: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846); reference training.md 8 and ledger.md 8.2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr

from common.audit import recompute
from common.audit.attack.check import Check, dispersion, smallest_deficit

Float = NDArray[np.float64]

GRID: Final = 1e-3  # of the log-likelihood ratio
SIZE: Final = 1 << 18  # points of the grid: the sum over the steps lies within +-131
GUESSED: Final = 40  # one canary in so many is guessed to be in, one to be out; fixed before the run
CONFIDENCE: Final = 0.95
PLD_GRID: Final = 1e-3
BISECTIONS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Equal steps: the honest sum's noise is `sigma` relative to a canary's pull, `noise_multiplier` to the sensitivity."""

    noise_multiplier: float
    sigma: float
    rate: float
    steps: int
    delta: Decimal

    def epsilon(self) -> float:
        """Return the epsilon that a ledger would charge for the steps, at `delta`."""
        step = recompute.Step(sigma=self.noise_multiplier, rate=self.rate, count=self.steps)
        return recompute.epsilon([step], delta=float(self.delta), grid=PLD_GRID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the guesser sees: coordinates (step, canary) in units of the clip norm; and the truth, `inside` (canary,) bool."""

    plan: Plan
    coordinates: Float
    inside: NDArray[np.bool_]

    def __post_init__(self) -> None:
        steps, canaries = self.coordinates.shape
        if steps != self.plan.steps or self.inside.shape != (canaries,) or not 0 < self.inside.sum() < canaries:
            raise ValueError("the coordinates do not belong to the plan, or nobody is in or out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """How good the guesses were: `correct` of `made`; epsilon is at least `epsilon_least`, with CONFIDENCE."""

    auroc: float
    auroc_expected: float
    auroc_deviation: float
    made: int
    correct: int
    epsilon_least: float
    epsilon_claimed: float


def guess(seen: Seen) -> Guess:
    """Score the canaries, guess those of which it is surest, and return what that shows."""
    plan, canaries = seen.plan, len(seen.inside)
    scores = score(seen.coordinates, sigma=plan.sigma, rate=plan.rate)
    expected, deviation = expectation(plan, inside=int(seen.inside.sum()), outside=int((~seen.inside).sum()))
    each = max(1, canaries // GUESSED)
    order = np.argsort(scores, kind="stable")
    correct = int(seen.inside[order[-each:]].sum() + (~seen.inside[order[:each]]).sum())
    return Guess(
        auroc=auroc(scores, inside=seen.inside),
        auroc_expected=expected,
        auroc_deviation=deviation,
        made=2 * each,
        correct=correct,
        epsilon_least=epsilon_least(canaries=canaries, made=2 * each, correct=correct, delta=float(plan.delta)),
        epsilon_claimed=plan.epsilon(),
    )


def checks(seen: Seen, found: Guess, *, name: str) -> Iterator[Check]:
    """Yield the checks of one run; `name` says which run it is."""
    outside = seen.coordinates[:, ~seen.inside] / seen.plan.sigma
    yield dispersion(
        f"{name}: noise",
        claim="as claimed where no canary is",
        squares=float(np.square(outside).sum()),
        freedom=outside.size,
        power=f"finds noise {100 * smallest_deficit(outside.size):.2f} % too small",
    )
    pulled = seen.coordinates[:, seen.inside]
    rate = seen.plan.rate
    spread = math.sqrt((seen.plan.sigma**2 + rate * (1 - rate)) / pulled.size)
    pull = float(pulled.mean())
    p = float(2 * stats.norm.sf(abs(pull - rate) / spread))
    yield Check(name=f"{name}: pull", claim=f"{rate:g} clip norms a step", seen=f"{pull:.4f}", p=p)
    off = (found.auroc - found.auroc_expected) / found.auroc_deviation
    yield Check(
        name=f"{name}: AUROC",
        claim=f"{found.auroc_expected:.3f} +- {found.auroc_deviation:.3f}",
        seen=f"{found.auroc:.3f}",
        p=float(2 * stats.norm.sf(abs(off))),
    )
    refuted = p_value(
        found.epsilon_claimed,
        canaries=len(seen.inside),
        made=found.made,
        correct=found.correct,
        delta=float(seen.plan.delta),
    )
    yield Check(
        name=f"{name}: epsilon",
        claim=f"at most {found.epsilon_claimed:.2f}",
        seen=f"at least {found.epsilon_least:.2f} ({found.correct} of {found.made} guesses right)",
        p=refuted,
    )


def score(coordinates: Float, *, sigma: float, rate: float) -> Float:
    """Return the log-likelihood ratio of each canary, (canary,): of being in over being out, summed over the steps."""
    with np.errstate(over="ignore"):
        gained = np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + (2 * coordinates - 1) / (2 * sigma**2))
    total: Float = gained.sum(axis=0)
    return total


def auroc(scores: Float, *, inside: NDArray[np.bool_]) -> float:
    """Return the probability that a canary that is in scores above one that is out, ties counted half."""
    ranks = stats.rankdata(scores)
    n = int(inside.sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def expectation(plan: Plan, *, inside: int, outside: int) -> tuple[float, float]:
    """Return the AUROC that a right build has on average, and its standard deviation with so many canaries in and out.

    Source: the score's law is the convolution of the steps', by FFT; the deviation is that of Hanley and McNeil 1982, exact
    given the law. At rate 1 the AUROC is Phi(sqrt(steps) / (sigma sqrt 2)).
    """
    area, two_in, two_out = _moments(plan.sigma, plan.rate, plan.steps)
    variance = area * (1 - area) + (inside - 1) * (two_in - area**2) + (outside - 1) * (two_out - area**2)
    return area, math.sqrt(variance / (inside * outside))


@lru_cache(maxsize=8)
def _moments(sigma: float, rate: float, steps: int) -> tuple[float, float, float]:
    """Return P(in > out), P(two in > one out), P(one in > two out) of independent canaries."""
    half = SIZE // 2
    edges = (np.arange(-half, half + 1) - 0.5) * GRID  # of the cells around the grid's points
    at = np.full(SIZE + 1, -np.inf)
    inner = (np.exp(np.minimum(edges, 700)) - (1 - rate)) / rate
    at[inner > 0] = sigma**2 * np.log(inner[inner > 0]) + 0.5
    at[0], at[-1] = -np.inf, np.inf
    out = np.diff(ndtr(at / sigma))
    mixed = (1 - rate) * out + rate * np.diff(ndtr((at - 1) / sigma))
    laws = []
    for one in (mixed, out):
        spectrum = np.fft.rfft(np.fft.ifftshift(one)) ** steps
        laws.append(np.maximum(np.fft.fftshift(np.fft.irfft(spectrum, SIZE)), 0.0))
    p_in, p_out = (law / law.sum() for law in laws)
    below_out = np.cumsum(p_out) - p_out / 2
    above_in = 1 - np.cumsum(p_in) + p_in / 2
    area = float(p_in @ below_out)
    return area, float(p_out @ np.square(above_in)), float(p_in @ np.square(below_out))


def p_value(epsilon: float, *, canaries: int, made: int, correct: int, delta: float) -> float:
    """Return a bound on the probability of so many correct guesses if the run were (epsilon, delta)-private.

    Source: Steinke, Nasr, Jagielski 2023, theorem 5.2: every guess is right with probability e^epsilon / (1 + e^epsilon) at
    most, and delta adds 2 * canaries * delta * max over i of P(correct - i <= binomial < correct) / i.
    """
    law = stats.binom(made, 1 / (1 + math.exp(-epsilon)))
    within = np.cumsum(law.pmf(np.arange(correct - 1, -1, -1)))
    slope = float((within / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, float(law.sf(correct - 1)) + 2 * canaries * delta * slope)


def epsilon_least(*, canaries: int, made: int, correct: int, delta: float) -> float:
    """Return the largest epsilon that the guesses refute with CONFIDENCE; 0 when they refute none."""
    low, high = 0.0, 50.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        refuted = p_value(middle, canaries=canaries, made=made, correct=correct, delta=delta) < 1 - CONFIDENCE
        low, high = (middle, high) if refuted else (low, middle)
    return low
