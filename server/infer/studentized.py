"""The upper tail of the studentized range, accurate to many digits where it is small."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Float = NDArray[np.float64]

STEP = 0.125  # of the trapezium rule; the integrands are analytic with Gaussian tails, so its error is below rounding
POINTS = 161


def sf(q: float, *, k: int, df: float) -> float:
    """Return P(Q > q) for the range of k standard normals over an independent s with `df` degrees of freedom.

    Guarantee: a double sum of positive terms, so that small tails keep their digits; scipy's is one minus a sum.
    k >= 2, df > 0; q <= 0 gives 1. Source: Lund and Lund 1983, AS 190, integrals by the trapezium rule.
    """
    if q <= 0:
        return 1.0
    coarse = np.linspace(-18.0, 4.0, 221)
    density = _log_density(coarse, df=df)
    with np.errstate(divide="ignore"):
        height = density + np.log(_range_sf(q * np.exp(coarse), k=k))
    peak = int(np.argmax(height))
    if not math.isfinite(height[peak]):
        return 0.0
    best = optimize.minimize_scalar(
        lambda u: min(-_height(u, q=q, k=k, df=df), 1e9),  # where the tail underflows there is no infinity to subtract
        bounds=(coarse[max(0, peak - 1)], coarse[min(220, peak + 1)]),
        method="bounded",
    )
    top = -float(best.fun)
    low, high = (_edge(float(best.x), sign, floor=top - 45, q=q, k=k, df=df) for sign in (-1, 1))
    u, step = np.linspace(low, high, POINTS, retstep=True)
    return min(1.0, float(np.sum(np.exp(_log_density(u, df=df)) * _range_sf(q * np.exp(u), k=k)) * step))


def isf(p: float, *, k: int, df: float) -> float:
    """Return the q that is exceeded with probability `p`, 0 < p < 1."""
    high = 4.0
    while sf(high, k=k, df=df) > p:
        high *= 2
    return float(optimize.brentq(lambda q: sf(q, k=k, df=df) - p, 0.0, high, xtol=1e-13, rtol=1e-13))


def _range_sf(width: Float, *, k: int) -> Float:
    """Return P(range of k normals > width): with z the largest, not all others lie between z - width and z."""
    capped = np.minimum(width, 80.0)  # beyond it the tail is below what float64 holds
    z = np.arange(-9.0, float(np.max(capped)) + 9.0, STEP)
    below = special.ndtr(z)[None, :]
    far = np.minimum(special.ndtr(z[None, :] - capped[:, None]) / below, 1 - 1e-16)
    some = below ** (k - 1) * -np.expm1((k - 1) * np.log1p(-far))
    tail = k * STEP * (some @ (np.exp(-z * z / 2) / math.sqrt(2 * math.pi)))
    return np.asarray(np.clip(tail, 0.0, 1.0))


def _log_density(u: Float, *, df: float) -> Float:
    """Return the log density of u = log s, df * s**2 chi-square."""
    constant = math.log(2) + df / 2 * math.log(df / 2) - float(special.gammaln(df / 2))
    return np.asarray(constant + df * u - df / 2 * np.exp(2 * u))


def _height(u: float, *, q: float, k: int, df: float) -> float:
    at = np.array([u])
    tail = float(_range_sf(q * np.exp(at), k=k)[0])
    return float(_log_density(at, df=df)[0]) + (math.log(tail) if tail > 0 else -math.inf)


def _edge(start: float, sign: int, *, floor: float, q: float, k: int, df: float) -> float:
    """Return where the integrand has fallen to exp(floor) on one side of its peak."""
    reach = 1e-4
    while _height(start + sign * reach, q=q, k=k, df=df) > floor:
        reach *= 1.5
    return start + sign * reach
