"""Sums over residuals become robust standard errors (HC3, clustered by hospital) and tests of the model's assumptions."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from common.errors import ProtocolError
from common.moments import Moments
from common.residuals import FRACTION_BITS, Fit, Sums
from server.infer.linear import solve
from server.infer.regression import INTERCEPT

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One coefficient with a robust standard error."""

    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    t: float
    df: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What the residuals say.

    `hc3` does not assume equal variances (MacKinnon and White 1985; t on n - p - 1). `clustered` allows patients of a hospital
    to depend on one another (t on hospitals - 1; rough below some thirty hospitals, absent where there are not more
    hospitals than coefficients, or where too few honest ones remain to hide one another). Breusch-Pagan in Koenker's form,
    chi-square with p degrees; Jarque-Bera with two.
    """

    outcome: str
    n: int
    hospitals: int
    hc3: tuple[Row, ...]
    clustered: tuple[Row, ...]
    breusch_pagan: float
    breusch_pagan_p: float
    jarque_bera: float
    jarque_bera_p: float
    skewness: float
    kurtosis: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def broadcast(moments: Moments, *, outcome: str, predictors: Sequence[str]) -> Fit:
    """Return the fit that hospitals need to form residuals and leverages; raises as regression.fit."""
    solved = solve(moments, outcome=outcome, predictors=predictors)
    p = len(predictors)
    scale = [math.sqrt(moments.scatter(name, name) / moments.n) for name in predictors]
    inverse = np.array([[float(solved.inverse(i, j)) for j in range(p)] for i in range(p)]) * np.outer(scale, scale)
    slope = np.array([float(solved.form({name: Fraction(1)})[0]) for name in predictors]) * scale
    return Fit(
        outcome=outcome,
        predictors=tuple(predictors),
        n=moments.n,
        mean=np.array([float(moments.mean(name)) for name in predictors]),
        scale=np.array(scale),
        basis=np.asarray(linalg.cholesky(inverse, lower=True)),
        slope=slope,
        outcome_mean=float(moments.mean(outcome)),
        sigma=math.sqrt(solved.variance),
    )


def diagnose(sums: Sums, *, fit: Fit) -> Residual:
    """Return robust errors and diagnostics from the opened sums of the fit that was broadcast.

    Raises ProtocolError when the sums cannot be those of residuals.
    """
    p, n = len(fit.predictors), fit.n
    unit, half = Fraction(1, 4**FRACTION_BITS), Fraction(1, 2**FRACTION_BITS)
    second = float(sums.square * half)
    cubed, fourth = float(sums.cube * unit), float(sums.fourth * unit)
    with_square = np.array([float(value * unit) for value in sums.with_square])
    spread = float(sums.fourth * unit - (sums.square * half) ** 2 / n)
    if second <= 0 or spread <= 0 or sums.hospitals < 1:
        raise ProtocolError("The opened sum is not one of residuals.", action="Do not use it; a hospital sent something else.")
    meat = np.array([[float(value * unit) for value in row] for row in sums.meat])
    scores = np.array([[float(value * unit) for value in row] for row in sums.scores])
    back = _back(fit)
    factor = fit.sigma**2 / n
    lagrange = float(with_square @ with_square) / spread
    skewness, kurtosis = cubed / n / (second / n) ** 1.5, fourth / n / (second / n) ** 2
    bera = n / 6 * (skewness**2 + (kurtosis - 3) ** 2 / 4)
    g = sums.hospitals
    clustered: tuple[Row, ...] = ()
    if g > p + 1 and scores.any():
        correction = g / (g - 1) * (n - 1) / (n - p - 1)
        clustered = _rows(fit, back @ (scores * factor * correction) @ back.T, df=g - 1)
    return Residual(
        outcome=fit.outcome,
        n=n,
        hospitals=g,
        hc3=_rows(fit, back @ (meat * factor) @ back.T, df=n - p - 1),
        clustered=clustered,
        breusch_pagan=lagrange,
        breusch_pagan_p=float(stats.chi2.sf(lagrange, p)),
        jarque_bera=bera,
        jarque_bera_p=float(stats.chi2.sf(bera, 2)),
        skewness=skewness,
        kurtosis=kurtosis,
    )


def _back(fit: Fit) -> NDArray[np.float64]:
    """Return the matrix that turns orthonormal coefficients into intercept and slopes, in their units."""
    p = len(fit.predictors)
    back = np.zeros((p + 1, p + 1))
    back[1:, 1:] = fit.basis / fit.scale[:, None]
    back[0, 0] = 1 / math.sqrt(fit.n)
    back[0, 1:] = -fit.mean @ back[1:, 1:]
    return back


def _rows(fit: Fit, covariance: NDArray[np.float64], *, df: int) -> tuple[Row, ...]:
    slopes = fit.slope / fit.scale
    estimates = [fit.outcome_mean - float(fit.mean @ slopes), *slopes.tolist()]
    critical = float(stats.t.isf((1 - CONFIDENCE) / 2, df))
    rows = []
    for term, estimate, variance in zip((INTERCEPT, *fit.predictors), estimates, np.diag(covariance).tolist(), strict=True):
        error = math.sqrt(max(variance, 0.0))
        t = estimate / error if error > 0 else math.copysign(math.inf, estimate)
        rows.append(
            Row(
                term=term,
                estimate=estimate,
                standard_error=error,
                ci_low=estimate - critical * error,
                ci_high=estimate + critical * error,
                t=t,
                df=df,
                p=2 * float(stats.t.sf(abs(t), df)),
            )
        )
    return tuple(rows)
