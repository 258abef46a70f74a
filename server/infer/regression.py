"""Moments become ordinary least squares, solved in wide integer arithmetic and rounded once at the end."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import stats

from common.moments import Moments
from common.terms import Model
from server.infer import noncentral
from server.infer.linear import ONE, Solved, solve

CONFIDENCE = 0.95
INTERCEPT = "(intercept)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One coefficient, in units of the outcome per unit of the term.

    `standardised` is in standard deviations of the outcome per standard deviation of the term. It and `vif` are nan for the
    intercept.
    """

    term: str
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float
    t: float
    p: float
    vif: float
    standardised: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """An ordinary least squares fit with intercept.

    `sigma` is the residual standard deviation, `df` its degrees of freedom; `condition_number` is that of the predictors,
    centred and scaled to unit length (Belsley); `f` tests all predictors at once. The interval of `r_squared`
    is of the share of the variance that the predictors explain (Steiger 2004).
    """

    outcome: str
    rows: tuple[Row, ...]
    n: int
    df: int
    r_squared: float
    r_squared_low: float
    r_squared_high: float
    r_squared_adjusted: float
    sigma: float
    f: float
    f_p: float
    condition_number: float

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; nan becomes None."""
        plain = asdict(self)
        plain["rows"] = [
            {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()} for row in plain["rows"]
        ]
        return plain


def fit(moments: Moments, *, outcome: str, predictors: Sequence[str], absorbed: int = 0) -> Regression:
    """Regress `outcome` on `predictors` with an intercept, or with the means of `absorbed` hospitals taken out before.

    With absorbed means (common/within.py) there is no intercept; R squared and F are those within hospitals.

    Guarantee: estimates, standard errors and variance inflation are those of the integer table, rounded once to
    float64 (server/infer/linear.py); tails are `sf`, never one minus `cdf`. Nothing per row is used.

    | input | result |
    |---|---|
    | rows not more than coefficients | NotEstimable "too few rows" |
    | a predictor or the outcome does not vary | NotEstimable "constant" |
    | a predictor equals a combination of earlier ones, as far as the data's digits go | NotEstimable "aliased" |
    | the outcome equals a combination of the predictors, likewise | NotEstimable "perfect fit" |
    | a total that is no Gram matrix | ProtocolError |
    | unknown, repeated or no names, the outcome among the predictors | ConfigError |

    Source: the sweep operator (Goodnight 1979); reference statistics.md section 2.
    """
    solved = solve(moments, outcome=outcome, predictors=predictors, absorbed=absorbed)
    p, df, variance = len(predictors), solved.df, solved.variance
    total = solved.total
    rows = []
    if not absorbed:
        weights = dict(zip(predictors, solved.mean, strict=False))
        slope, leverage = solved.form(weights)
        rows.append(_row(INTERCEPT, solved.mean[-1] - slope, variance * (Fraction(1, solved.n) + leverage), df=df))
    for j, name in enumerate(predictors):
        estimate, spread = solved.form({name: Fraction(1)})
        vif = float(solved.inflation(j))
        scale = math.sqrt(solved.square[j] / solved.square[p] * (solved.unit[p] / solved.unit[j]) ** 2)
        rows.append(_row(name, estimate, variance * spread, df=df, vif=vif, scale=scale))
    f = float((total - solved.residual) / p / variance)
    low, high = noncentral.explained(f, q=p, df=df)
    return Regression(
        outcome=outcome,
        rows=tuple(rows),
        n=solved.n,
        df=df,
        r_squared=float(1 - solved.residual / total),
        r_squared_low=low,
        r_squared_high=high,
        r_squared_adjusted=float(1 - variance * (df + p) / total),
        sigma=math.sqrt(variance),
        f=f,
        f_p=float(stats.f.sf(f, p, df)),
        condition_number=_condition_number(moments, solved=solved),
    )


def fit_model(moments: Moments, *, model: Model) -> Regression:
    """Fit a formula that is bound to the dictionary: factors by treatment coding, interactions as products; raises as `fit`."""
    return fit(moments, outcome=model.outcome.name, predictors=model.predictors)


def _condition_number(moments: Moments, *, solved: Solved) -> float:
    """Return the ratio of the extreme singular values of the scaled predictors; the smallest one from the exact inverse."""
    columns = [moments.index(name) for name in solved.predictors]
    length = np.sqrt([float(moments.cross[i][i]) for i in columns])
    forward = np.array([[float(moments.cross[i][j]) for j in columns] for i in columns]) / np.outer(length, length)
    p = len(columns)
    inverse = np.array([[-solved.swept[i][j] / ONE for j in range(p)] for i in range(p)])
    scaled = np.sqrt([float(square) for square in solved.square[:p]])
    inverse *= np.outer(scaled, scaled)
    return math.sqrt(float(np.linalg.eigvalsh(forward)[-1]) * float(np.linalg.eigvalsh(inverse)[-1]))


def _row(term: str, estimate: Fraction, variance: Fraction, *, df: int, vif: float = math.nan, scale: float = math.nan) -> Row:
    value, error = float(estimate), math.sqrt(variance)
    t = value / error
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * error
    return Row(
        term=term,
        estimate=value,
        standard_error=error,
        ci_low=value - reach,
        ci_high=value + reach,
        t=t,
        p=2 * float(stats.t.sf(abs(t), df)),
        vif=vif,
        standardised=value * scale,
    )
