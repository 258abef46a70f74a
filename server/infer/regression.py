"""Moments become ordinary least squares, solved in exact integers and rounded once at the end."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import stats

from common.errors import ConfigError, NotEstimable, ProtocolError
from common.moments import Moments

CONFIDENCE = 0.95
INTERCEPT = "(intercept)"
RESOLUTION_MARGIN = 64  # how far a residual must stand above what the data's own digits could leave


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
    centred and scaled to unit length (Belsley); `f` tests all predictors at once.
    """

    outcome: str
    rows: tuple[Row, ...]
    n: int
    df: int
    r_squared: float
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


def fit(moments: Moments, *, outcome: str, predictors: Sequence[str]) -> Regression:
    """Regress `outcome` on `predictors` with an intercept.

    Guarantee: estimates, standard errors and variance inflation are those of the integer table exactly, then rounded to
    float64; tails are `sf`, never one minus `cdf`. Nothing per row is used.

    | input | result |
    |---|---|
    | rows not more than coefficients | NotEstimable "too few rows" |
    | a predictor or the outcome does not vary | NotEstimable "constant" |
    | a predictor equals a combination of earlier ones, as far as the data's digits go | NotEstimable "aliased" |
    | the outcome equals a combination of the predictors, likewise | NotEstimable "perfect fit" |
    | a total that is no Gram matrix | ProtocolError |
    | unknown, repeated or no names, the outcome among the predictors | ConfigError |

    Source: fraction-free Gauss-Jordan elimination (Bareiss 1968); reference statistics.md section 2.
    """
    names = [*predictors, outcome]
    columns = [moments.index(name) for name in names]
    if len(set(names)) != len(names) or not predictors:
        raise ConfigError("A regression names each column once, and at least one predictor.", action="Mend the study.")
    p = len(predictors)
    df = moments.n - p - 1
    if df < 1:
        raise NotEstimable(
            "too few rows", term=outcome, action=f"{p + 1} coefficients need more than {p + 1} complete patients."
        )
    for name, i in zip(names, columns, strict=True):
        if moments.cross[i][i] == 0:
            raise NotEstimable("constant", term=name, action="Leave it out: every patient has the same value.")
    swept, determinant = _sweep(moments, names=names, columns=columns)

    n = moments.n
    unit = [Fraction(2) ** moments.exponents[i] for i in columns]  # z = unit * x
    square = [moments.cross[i][i] for i in columns]
    beta = [Fraction(swept[j][p], determinant) * unit[j] / unit[p] for j in range(p)]
    total = Fraction(square[p], n) / unit[p] ** 2
    variance = Fraction(swept[p][p], n * determinant) / unit[p] ** 2 / df
    spread = [Fraction(-n * swept[j][j], determinant) * unit[j] ** 2 for j in range(p)]  # diagonal of the inverse
    sums = [moments.sums[i] for i in columns]
    leverage = Fraction(sum(sums[i] * sums[j] * -swept[i][j] for i in range(p) for j in range(p)), n * determinant)
    intercept = moments.mean(outcome) - sum(b * moments.mean(name) for b, name in zip(beta, predictors, strict=True))
    vif = [square[j] * -swept[j][j] / determinant for j in range(p)]
    scale = [math.sqrt(Fraction(square[j], square[p]) * (unit[p] / unit[j]) ** 2) for j in range(p)]
    f = float((total - variance * df) / p / variance)
    return Regression(
        outcome=outcome,
        rows=(
            _row(INTERCEPT, intercept, variance * (Fraction(1, n) + leverage), df=df),
            *(_row(predictors[j], beta[j], variance * spread[j], df=df, vif=vif[j], scale=scale[j]) for j in range(p)),
        ),
        n=n,
        df=df,
        r_squared=float(1 - variance * df / total),
        r_squared_adjusted=float(1 - variance * (n - 1) / total),
        sigma=math.sqrt(variance),
        f=f,
        f_p=float(stats.f.sf(f, p, df)),
        condition_number=_condition_number(moments, columns=columns[:p], swept=swept, determinant=determinant),
    )


def _sweep(moments: Moments, *, names: Sequence[str], columns: Sequence[int]) -> tuple[list[list[int]], int]:
    """Sweep every predictor out of the integer scatter matrix A = [[X'X, X'y], [y'X, y'y]], n times the centred one.

    Returns (M, d), d = det X'X: X'X inverse = -M/d in the predictors' block, coefficients = M/d in the last column, residual
    sum of squares = M/d in the corner. All exact integers, every division exact (each entry is a minor of A).
    """
    matrix = [[moments.cross[i][j] for j in columns] for i in columns]
    p = len(columns) - 1
    floor = RESOLUTION_MARGIN * (p + 1) * max(_resolution(moments, column=i) for i in columns)
    last = 1
    for k in range(p + 1):
        pivot = matrix[k][k]
        if pivot < 0:
            raise ProtocolError("The opened sum is not a Gram matrix.", action="Do not use it; a hospital sent something else.")
        if Fraction(pivot, last) <= floor * moments.cross[columns[k]][columns[k]]:
            what, action = (
                ("perfect fit", "The predictors give it exactly") if k == p else ("aliased", "The predictors before it give it")
            )
            raise NotEstimable(what, term=names[k], action=f"{action}; leave one out.")
        if k == p:
            break
        row = list(matrix[k])
        for i in range(p + 1):
            for j in range(i, p + 1):
                if k not in {i, j}:
                    matrix[i][j] = matrix[j][i] = (pivot * matrix[i][j] - row[i] * row[j]) // last
        matrix[k][k], last = -last, pivot
    return matrix, last


def _resolution(moments: Moments, *, column: int) -> Fraction:
    """Return the square of a column's smallest step over its variance: the grid's step, or float64's at its mean."""
    step = max(Fraction(1), Fraction(abs(moments.sums[column]), moments.n * 2**52))
    return moments.n**2 * step**2 / moments.cross[column][column]


def _condition_number(moments: Moments, *, columns: Sequence[int], swept: list[list[int]], determinant: int) -> float:
    """Return the ratio of the extreme singular values of the scaled predictors; the smallest one from the exact inverse."""
    length = np.sqrt([float(moments.cross[i][i]) for i in columns])
    forward = np.array([[float(moments.cross[i][j]) for j in columns] for i in columns]) / np.outer(length, length)
    p = len(columns)
    inverse = np.array([[-swept[i][j] / determinant for j in range(p)] for i in range(p)]) * np.outer(length, length)
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
