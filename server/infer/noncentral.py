"""Intervals of effect sizes, by inversion of the noncentral F and chi-square distributions."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Float = NDArray[np.float64]

CONFIDENCE = 0.95
REACH = 12.0  # standard deviations of the Poisson weights that are summed; what is left out is below 1e-30


def tails(f: float, *, q: float, df: float, ncp: float) -> tuple[float, float]:
    """Return (cdf, sf) of the noncentral F distribution at `f`, each as a sum of positive terms: no tail is one minus another.

    q, df: degrees of freedom; ncp >= 0. Source: Johnson, Kotz and Balakrishnan 1995, 30.10.
    """
    j, weights = _poisson(ncp)
    a, b = q / 2 + j, df / 2
    x, rest = q * f / (q * f + df), df / (q * f + df)
    if rest < x:  # the smaller one carries the digits
        return float(weights @ special.betaincc(b, a, rest)), float(weights @ special.betainc(b, a, rest))
    return float(weights @ special.betainc(a, b, x)), float(weights @ special.betaincc(a, b, x))


def interval(f: float, *, q: float, df: float) -> tuple[float, float]:
    """Return the 95 % interval of the noncentrality from an observed F; (0, 0) where even 0 is rejected from above.

    Source: Steiger 2004; Smithson 2003.
    """
    tail = (1 - CONFIDENCE) / 2

    def both(ncp: float) -> tuple[float, float]:
        return tails(f, q=q, df=df, ncp=ncp)

    return _solve(both, first=2 * q * f, at=0, tail=tail), _solve(both, first=2 * q * f, at=1, tail=tail)


def explained(f: float, *, q: float, df: float) -> tuple[float, float]:
    """Return the 95 % interval of the partial proportion of variance, ncp / (ncp + q + df + 1)."""
    low, high = interval(f, q=q, df=df)
    return low / (low + q + df + 1), high / (high + q + df + 1)


def chi_square(q: float, *, df: float) -> tuple[float, float]:
    """Return the 95 % interval of the noncentrality from an observed chi-square."""
    tail = (1 - CONFIDENCE) / 2

    def below(ncp: float) -> tuple[float, float]:
        j, weights = _poisson(ncp)
        return float(weights @ special.gammainc(df / 2 + j, q / 2)), float(weights @ special.gammaincc(df / 2 + j, q / 2))

    return _solve(below, first=2 * q, at=0, tail=tail), _solve(below, first=2 * q, at=1, tail=tail)


def _poisson(ncp: float) -> tuple[Float, Float]:
    """Return counts and their Poisson weights about mean ncp / 2; where they are many, every h-th with h times its weight.

    A sum of a smooth function with a Gaussian's width w over every (w / 8)-th point is exact to rounding (trapezium rule).
    Source: Loader 2000 for the weights, whose digits do not depend on the size of the mean.
    """
    half = ncp / 2
    width = REACH * math.sqrt(half) + 40
    stride = max(1, math.floor(math.sqrt(half) / 8))
    j = np.arange(max(0, math.floor(half - width)), math.ceil(half + width) + 1, stride, dtype=np.float64)
    if half < 100:
        return j, np.exp(special.xlogy(j, half) - half - special.gammaln(j + 1))
    found = j > 0
    away = half * _departure((j[found] - half) / half)
    weights = np.zeros(len(j))
    weights[found] = np.exp(-away - _stirling(j[found])) / np.sqrt(2 * math.pi * j[found])
    return j, stride * weights


def _departure(t: Float) -> Float:
    """Return (1 + t) log(1 + t) - t for t > -1, without cancellation near 0."""
    series = np.zeros(len(t))
    for k in range(20, 1, -1):
        series = series * t + (1 if k % 2 == 0 else -1) / (k * (k - 1))
    return np.where(np.abs(t) < 0.1, series * t * t, (1 + t) * np.log1p(t) - t)


def _stirling(j: Float) -> Float:
    """Return log(j!) less Stirling's formula."""
    small = special.gammaln(j + 1) - ((j + 0.5) * np.log(j) - j + math.log(2 * math.pi) / 2)
    return np.where(j < 20, small, (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * j * j)) / (j * j)) / (j * j)) / j)


def _solve(both: Callable[[float], tuple[float, float]], *, first: float, at: int, tail: float) -> float:
    """Return the ncp at which the statistic or more (at = 0), or it or less (at = 1), has probability `tail`; 0 where none has.

    `both` returns (cdf, sf) at an ncp.
    """

    def excess(ncp: float) -> float:
        return both(ncp)[1 - at] - tail

    start = excess(0.0)
    if (at == 0 and start >= 0) or (at == 1 and start <= 0):
        return 0.0
    high = max(1.0, first)
    while (excess(high) > 0) == (at == 1):
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-13 * high, rtol=1e-14))
