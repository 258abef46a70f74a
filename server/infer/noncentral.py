"""Intervals of effect sizes, by inversion of the noncentral F and chi-square distributions."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

CONFIDENCE = 0.95
REACH = 12.0  # standard deviations of the Poisson weights that are summed; what is left out is below 1e-30


def tails(f: float, *, q: float, df: float, ncp: float) -> tuple[float, float]:
    """Return (cdf, sf) of the noncentral F distribution at `f`, each as a sum of positive terms: no tail is one minus another.

    q, df: degrees of freedom; ncp >= 0. Source: Johnson, Kotz and Balakrishnan 1995, 30.10.
    """
    j, weights = _poisson(ncp)
    x, rest = q * f / (q * f + df), df / (q * f + df)
    below = float(np.sum(weights * special.betainc(q / 2 + j, df / 2, x)))
    return below, float(np.sum(weights * special.betainc(df / 2, q / 2 + j, rest)))


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


def _poisson(ncp: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half = ncp / 2
    width = REACH * math.sqrt(half) + 40
    j = np.arange(max(0, math.floor(half - width)), math.ceil(half + width) + 1, dtype=np.float64)
    return j, np.exp(special.xlogy(j, half) - half - special.gammaln(j + 1))


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
