"""Epsilon recomputed with numpy and scipy alone: it shares no code with dp-accounting, so that each checks the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Float = NDArray[np.float64]

HALF_WIDTH_FIRST = 32.0  # of the grid of privacy losses; doubled until it is wide enough
HALF_WIDTH_MOST = 512.0  # exp of it is still a float
CHERNOFF = (0.25, 0.5, 1.0, 2.0, 4.0)
BISECTIONS = 50
WRAPPED_MOST = 1e-9  # of a profile, whose deltas are read to some digits only


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`count` equal Poisson-sampled Gaussian steps; `sigma` is relative to the L2 sensitivity."""

    sigma: float
    rate: float
    count: int


def epsilon(steps: Sequence[Step], *, delta: float, grid: float) -> float:
    """Return an upper bound of epsilon at `delta` for the composition of `steps`, add-or-remove-one-patient adjacency.

    `grid` is the spacing of the privacy losses; 1e-4 agrees with dp-accounting to 2e-5. Infinite where 512 is passed.
    Source: connect-the-dots discretisation of Doroshenko et al. 2022; composition by FFT as in Koskela et al. 2020.
    """
    if not (0 < delta < 1 and 1e-6 <= grid <= 0.1):
        raise ValueError("delta must be in (0, 1), the grid between 1e-6 and 0.1")
    if any(not (math.isfinite(step.sigma) and step.sigma > 0 and 0 < step.rate <= 1 and step.count >= 1) for step in steps):
        raise ValueError("sigma must be positive, the rate in (0, 1], the count at least 1")
    if not steps:
        return 0.0
    return max(_one_direction(steps, delta, grid, "remove"), _one_direction(steps, delta, grid, "add"))


def profile(steps: Sequence[Step], *, epsilons: Sequence[float], grid: float) -> list[float]:
    """Return an upper bound of delta at each epsilon >= 0: the whole trade-off that `epsilon` reads one point of.

    Raises ValueError as `epsilon`. No step: zeros. Where the grid is not wide enough even at 512: ones.
    """
    if not 1e-6 <= grid <= 0.1 or any(not 0 <= level < math.inf for level in epsilons):
        raise ValueError("epsilons must be finite and not negative, the grid between 1e-6 and 0.1")
    if any(not (math.isfinite(step.sigma) and step.sigma > 0 and 0 < step.rate <= 1 and step.count >= 1) for step in steps):
        raise ValueError("sigma must be positive, the rate in (0, 1], the count at least 1")
    worst = [0.0] * len(epsilons)
    directions: tuple[Literal["remove", "add"], ...] = ("remove", "add") if steps else ()
    for direction in directions:
        width, wrapped, found = HALF_WIDTH_FIRST, 1.0, [1.0] * len(epsilons)
        while wrapped > WRAPPED_MOST and width <= HALF_WIDTH_MOST:
            losses, masses, at_infinity, wrapped = _compose(steps, grid, width, direction)
            found = [min(1.0, wrapped + _divergence(losses, masses, at_infinity, level)) for level in epsilons]
            width *= 2
        worst = [max(pair) for pair in zip(worst, found, strict=True)]
    return worst


def _one_direction(steps: Sequence[Step], delta: float, grid: float, direction: Literal["remove", "add"]) -> float:
    width = HALF_WIDTH_FIRST
    while width <= HALF_WIDTH_MOST:
        losses, masses, at_infinity, wrapped = _compose(steps, grid, width, direction)
        if wrapped <= delta * 1e-6:  # the grid is wide enough for the composition
            result = _solve(losses, masses, at_infinity + wrapped, delta)
            if result < width / 2 or (math.isinf(result) and width == HALF_WIDTH_MOST):
                return result
        width *= 2
    return math.inf


def _compose(
    steps: Sequence[Step], grid: float, width: float, direction: Literal["remove", "add"]
) -> tuple[Float, Float, float, float]:
    """Return positive losses, their masses, the mass at infinity and a bound on the mass that went round the circle."""
    half = round(width / grid)
    losses = grid * np.arange(-half, half + 1, dtype=np.float64)
    size = 1 << (2 * half).bit_length()
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    log_finite, moments = 0.0, np.zeros(len(CHERNOFF))
    for step in steps:
        masses, infinite = _discretise(step, losses, grid, direction)
        circle = np.zeros(size)
        circle[np.arange(-half, half + 1) % size] = masses
        spectrum *= np.fft.rfft(circle) ** step.count
        if infinite >= 1:
            return losses[half + 1 :], np.zeros(half), 1.0, 0.0
        log_finite += step.count * math.log1p(-infinite)
        for at, power in enumerate(CHERNOFF):
            peak = power * losses[-1]
            scaled = float(np.sum(masses * np.exp(power * losses - peak)))
            moments[at] += step.count * (math.log(max(scaled, 1e-300)) + peak)  # never below the truth
    top = size * grid / 2
    wrapped = min(1.0, float(np.exp(np.minimum(np.min(moments - np.array(CHERNOFF) * top), 0.0))))
    composed: Float = np.maximum(np.fft.irfft(spectrum, size)[1 : size // 2], 0.0)
    return grid * np.arange(1, size // 2, dtype=np.float64), composed, -math.expm1(log_finite), wrapped


def _discretise(step: Step, losses: Float, grid: float, direction: Literal["remove", "add"]) -> tuple[Float, float]:
    """Return masses under P on `losses`, and the mass at infinity.

    P is the mixture (a patient removed) or the plain noise (one added), Q the other. Each interval between two losses has a
    mass under P and one under Q; two masses on its ends keep both. What lies below the grid moves up to its first point.
    """
    edges = _noise_at(losses if direction == "remove" else -losses[::-1], step)
    plain, mixed = _interval_masses(edges, step)
    below = (float(ndtr(edges[0] / step.sigma)), _mixture_below(edges[0], step))
    above = (float(ndtr(-edges[-1] / step.sigma)), _mixture_above(edges[-1], step))
    if direction == "remove":
        p, q, low, infinite = mixed, plain, below[1], above[1]
    else:
        p, q, low, infinite = plain[::-1], mixed[::-1], above[0], below[0]
    upper = np.clip((p - q * np.exp(losses[:-1])) / -math.expm1(-grid), 0.0, p)
    masses = np.zeros(len(losses))
    masses[:-1] += p - upper
    masses[1:] += upper
    masses[0] += low
    return masses, infinite


def _noise_at(losses: Float, step: Step) -> Float:
    """Return x where log(1 - q + q exp((2x - 1) / (2 sigma^2))) equals each loss; minus infinity below its range."""
    if step.rate == 1:
        return step.sigma**2 * losses + 0.5
    inside = np.expm1(losses) / step.rate + 1.0
    result = np.full(len(losses), -np.inf)
    result[inside > 0] = step.sigma**2 * np.log(inside[inside > 0]) + 0.5
    return result


def _interval_masses(edges: Float, step: Step) -> tuple[Float, Float]:
    plain = _between(edges / step.sigma)
    return plain, (1 - step.rate) * plain + step.rate * _between((edges - 1) / step.sigma)


def _between(edges: Float) -> Float:
    left, right = edges[:-1], edges[1:]
    return np.asarray(np.where(left > 0, ndtr(-left) - ndtr(-right), ndtr(right) - ndtr(left)), dtype=np.float64)


def _mixture_below(edge: float, step: Step) -> float:
    return float((1 - step.rate) * ndtr(edge / step.sigma) + step.rate * ndtr((edge - 1) / step.sigma))


def _mixture_above(edge: float, step: Step) -> float:
    return float((1 - step.rate) * ndtr(-edge / step.sigma) + step.rate * ndtr((1 - edge) / step.sigma))


def _solve(losses: Float, masses: Float, at_infinity: float, delta: float) -> float:
    """Return the smallest epsilon whose hockey-stick divergence is at most `delta`."""
    low, high = 0.0, float(losses[-1])
    if _divergence(losses, masses, at_infinity, high) > delta:
        return math.inf
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(losses, masses, at_infinity, middle) > delta else (low, middle)
    return high


def _divergence(losses: Float, masses: Float, at_infinity: float, level: float) -> float:
    """Return the hockey-stick divergence at an epsilon."""
    start = int(np.searchsorted(losses, level, side="right"))
    return at_infinity + float(np.sum(masses[start:] * -np.expm1(level - losses[start:])))
