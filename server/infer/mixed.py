"""Linear mixed model with a random intercept for each hospital, by restricted maximum likelihood over one variance ratio.

As many variance ratios as hospitals determine each hospital's own sums: only where the policy allows hospital aggregates.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from common import fixed_point
from common.errors import ConfigError, HospitalMissing, NotEstimable, ProtocolError
from common.query import Analysis, Column, ask, centre_half, symmetric, triangle
from server.infer import newton
from server.infer.newton import Vector

INTERCEPT = "(intercept)"
HOSPITALS_LEAST = 3
RATIO_LARGEST = 1e6
RATIO_SMALLEST = 1e-8
QUERIES_MOST = 80
CONFIDENCE = 0.95
QUANTILE = -float(special.ndtri((1 - CONFIDENCE) / 2))
END_QUERIES_MOST = 30
MISSING = "a hospital gave no sum for it"
END_SMALL = 1e-10
ENDS_FROM = 1e-4  # the ratio from which an upper end is sought where the estimate is zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`outcome` = intercept + predictors + hospital's own intercept + error."""

    outcome: Column
    predictors: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [self.outcome.name, *(column.name for column in self.predictors)]
        if len(set(names)) != len(names) or not self.predictors:
            raise ConfigError("A model names each column once, and at least one predictor.", action="Mend the study.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """One fixed effect with its generalised-least-squares error at the estimated variance ratio; z and p are normal."""

    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    z: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A fit: variances of hospitals and of patients, their share `icc`, and the restricted log-likelihood.

    `boundary` says that the hospitals' variance is estimated as zero. `icc_low` and `icc_high` are the 95 % interval of the
    profiled restricted likelihood's ratio (chi-square, 1 degree); with few hospitals it is an approximation. Both are None
    where the sums for them were not to be had; `icc_diagnosis` says why.
    """

    outcome: str
    rows: tuple[Fixed, ...]
    n: int
    hospitals: int
    variance_hospitals: float
    variance_patients: float
    icc: float
    icc_low: float | None
    icc_high: float | None
    icc_diagnosis: str
    log_likelihood: float
    boundary: bool

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    ratio: float
    n: int
    hospitals: int
    likelihood: float
    slope: float  # d log-likelihood / d ratio
    coefficients: Vector
    inverse: Vector
    variance: float


def fit(spec: Spec) -> Analysis[Mixed]:
    """Find where the profiled restricted likelihood has slope zero: doubling brackets it, then regula falsi on log ratio.

    Raises NotEstimable: "too few hospitals" below 3, "too few rows", "aliased", "constant", "perfect fit", "no convergence".
    Standard errors are s**2 (X' V^-1 X)^-1 at the estimated ratio; statsmodels' MixedLM takes another definition for them.
    Source: Harville 1977; Lindstrom, Bates 1988; Dowell, Jarratt 1971 (Illinois).
    """
    asked = 1
    zero = yield from _profile(spec, 0.0)
    if zero.hospitals < HOSPITALS_LEAST:
        raise NotEstimable("too few hospitals", term=spec.outcome.name, action="A variance needs three hospitals or more.")
    low = best = zero
    if zero.slope > 0:
        high = yield from _profile(spec, 1.0)
        asked += 1
        while high.slope > 0 and high.ratio < RATIO_LARGEST:
            low, high = high, (yield from _profile(spec, high.ratio * 16))
            asked += 1
        if high.slope > 0:
            raise NotEstimable("no convergence", term=spec.outcome.name, action="Patients hardly vary within hospitals.")
        while low.ratio == 0.0 and high.ratio > RATIO_SMALLEST:
            middle = yield from _profile(spec, high.ratio / 16)
            asked += 1
            if middle.slope > 0:
                low = middle
            else:
                high = middle
        best = high
        if low.ratio > 0:
            best, _ = yield from _root(spec, low, high, left=QUERIES_MOST - asked)
    ends, why = yield from _ends(spec, best, zero=zero)
    return _result(spec, best, ends=ends, why=why)


def _ends(spec: Spec, best: _Profile, *, zero: _Profile) -> Analysis[tuple[tuple[float, float], str]]:
    """Return the ratios at the ends of the profile interval, or why there are none: the estimate stands without them."""
    try:
        low = 0.0 if _away(zero, best=best) <= QUANTILE else (yield from _end(spec, best, factor=1 / 4))
        high = yield from _end(spec, best, factor=4)
    except NotEstimable as error:  # as where the study allows no more sums
        return (math.nan, math.nan), error.diagnosis
    except HospitalMissing:
        return (math.nan, math.nan), MISSING
    return (low, high), ""


def _away(one: _Profile, *, best: _Profile) -> float:
    """Return the root of twice the fall of the log-likelihood from its maximum."""
    return math.sqrt(max(0.0, 2 * (best.likelihood - one.likelihood)))


def _end(spec: Spec, best: _Profile, *, factor: float) -> Analysis[float]:
    """Return the ratio at one end of the profile interval, infinite above RATIO_LARGEST.

    Illinois' rule on the root of the likelihood ratio by log ratio, which is nearly a line.
    """
    inside, f_inside = max(best.ratio, ENDS_FROM / 4), -QUANTILE
    outside, f_outside, asked = inside, f_inside, 0
    while f_outside < 0:
        inside, f_inside = outside, f_outside
        outside *= factor
        if outside > RATIO_LARGEST:
            return math.inf
        f_outside = _away((yield from _profile(spec, outside)), best=best) - QUANTILE
        asked += 1
    a, b, side = math.log(inside), math.log(outside), 0
    while asked < END_QUERIES_MOST:
        at = (a * f_outside - b * f_inside) / (f_outside - f_inside)
        value = _away((yield from _profile(spec, math.exp(at))), best=best) - QUANTILE
        asked += 1
        if abs(value) < END_SMALL or abs(b - a) < END_SMALL:
            return math.exp(at)
        if value < 0:
            a, f_inside = at, value
            f_outside = f_outside / 2 if side < 0 else f_outside
            side = -1
        else:
            b, f_outside = at, value
            f_inside = f_inside / 2 if side > 0 else f_inside
            side = 1
    return math.exp(b)  # outside the interval: wider, never narrower


def _root(spec: Spec, low: _Profile, high: _Profile, *, left: int) -> Analysis[tuple[_Profile, int]]:
    """Illinois' rule on the slope by log ratio; the end that stays halves its value."""
    a, b = math.log(low.ratio), math.log(high.ratio)
    fa, fb = low.slope * low.ratio, high.slope * high.ratio
    side = 0
    for asked in range(1, left + 1):
        at = (a * fb - b * fa) / (fb - fa)
        now = yield from _profile(spec, math.exp(at))
        value = now.slope * now.ratio
        if abs(value) < 1e-12 or b - a < 1e-14:
            return now, asked
        if value > 0:
            a, fa = at, value
            fb = fb / 2 if side > 0 else fb
            side = 1
        else:
            b, fb = at, value
            fa = fa / 2 if side < 0 else fa
            side = -1
    raise NotEstimable("no convergence", term=spec.outcome.name, action="Use fixed hospital effects.")


def _profile(spec: Spec, ratio: float) -> Analysis[_Profile]:
    names = tuple(column.name for column in spec.predictors)
    sums = yield ask("mixed", responses=[spec.outcome.name], predictors=names, numbers={"ratio": [ratio]})
    return _read(spec, sums, ratio=ratio)


def _read(spec: Spec, sums: Sequence[int], *, ratio: float) -> _Profile:
    q = len(spec.predictors) + 1
    block = triangle(q + 1)
    if len(sums) != 4 + 2 * block:
        raise ProtocolError("An opened sum has the wrong length.", action="Check that both sides run the same version.")
    n, hospitals = fixed_point.counts(sums[:2]).tolist()
    values = fixed_point.read(sums)
    whole, slope = symmetric(values[3 : 3 + block], size=q + 1), symmetric(values[4 + block :], size=q + 1)
    df = n - q
    if df < 1:
        raise NotEstimable("too few rows", term=spec.outcome.name, action="Leave out predictors.")
    names = (INTERCEPT, *(column.name for column in spec.predictors))
    inverse = newton.invert(whole[:q, :q], names=names, diagnosis="aliased")
    b = newton.solve(whole[:q, :q], whole[:q, q])
    b = b + newton.solve(whole[:q, :q], whole[:q, q] - whole[:q, :q] @ b)
    residual = float(whole[q, q] - 2 * b @ whole[:q, q] + b @ whole[:q, :q] @ b)
    if residual <= 1e-13 * float(whole[q, q]):
        raise NotEstimable("perfect fit", term=spec.outcome.name, action="The predictors give it exactly; leave one out.")
    variance = residual / df
    change = float(slope[q, q] - 2 * b @ slope[:q, q] + b @ slope[:q, :q] @ b)
    scale = 1 / np.sqrt(np.diag(whole)[:q])
    log_det = float(np.linalg.slogdet(whole[:q, :q] * np.outer(scale, scale))[1]) - 2 * float(np.log(scale).sum())
    return _Profile(
        ratio=ratio,
        n=n,
        hospitals=hospitals,
        likelihood=-0.5 * (df * math.log(2 * math.pi * variance) + float(values[2]) + log_det + df),
        slope=-0.5 * (change / variance + float(values[3 + block]) + float(np.sum(inverse * slope[:q, :q]))),
        coefficients=b,
        inverse=inverse,
        variance=variance,
    )


def _result(spec: Spec, best: _Profile, *, ends: tuple[float, float], why: str) -> Mixed:
    centre, half = centre_half(spec.outcome.lower, spec.outcome.upper)
    transform = newton.unscaled(spec.predictors, intercept=True)
    estimates = transform @ best.coefficients * half
    estimates[0] += centre
    errors = half * np.sqrt(best.variance * np.diag(transform @ best.inverse @ transform.T))
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    df = best.n - len(estimates)
    # the likelihood of the outcome and the columns in their own units
    likelihood = best.likelihood - df * math.log(half) + math.log(abs(float(np.linalg.det(transform))))
    return Mixed(
        outcome=spec.outcome.name,
        rows=tuple(
            Fixed(
                term=name,
                estimate=estimate,
                standard_error=error,
                ci_low=estimate - reach * error,
                ci_high=estimate + reach * error,
                z=estimate / error,
                p=2 * float(stats.norm.sf(abs(estimate / error))),
            )
            for name, estimate, error in zip(
                (INTERCEPT, *(column.name for column in spec.predictors)), estimates.tolist(), errors.tolist(), strict=True
            )
        ),
        n=best.n,
        hospitals=best.hospitals,
        variance_hospitals=best.ratio * best.variance * half**2,
        variance_patients=best.variance * half**2,
        icc=best.ratio / (1 + best.ratio),
        icc_low=None if why else ends[0] / (1 + ends[0]),
        icc_high=None if why else 1.0 if math.isinf(ends[1]) else ends[1] / (1 + ends[1]),
        icc_diagnosis=why,
        log_likelihood=likelihood,
        boundary=best.ratio <= RATIO_SMALLEST,
    )
