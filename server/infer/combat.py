"""ComBat in the form that sends no hospital's mean: pooled effects here, batch effects removed at the hospital."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from common import fixed_point
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.harmonisation import Harmonisation
from common.query import Analysis, Column, ask, centre_half, symmetric, triangle
from server.infer import newton


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Harmonise `features` over hospitals, keeping what `covariates` explain (there may be none)."""

    features: tuple[Column, ...]
    covariates: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        names = [column.name for column in (*self.features, *self.covariates)]
        if not self.features or len(set(names)) != len(names):
            raise ConfigError("ComBat names each column once, and at least one feature.", action="Mend the study.")


def fit(spec: Spec) -> Analysis[Harmonisation]:
    """Ask once for the sums centred within each hospital; hospitals then apply client/harmonise.py to their own rows.

    beta = (sum C'C)^-1 sum C'X, grand mean = mean of x - C beta, pooled variance = sum (x - C beta)**2 / N, C and x centred
    in the hospital in the first and last. Raises NotEstimable "aliased" or "constant" that names the column.
    Source: Johnson, Li, Rabinovic 2007; Frisch, Waugh 1933.
    """
    features, covariates = _names(spec.features), _names(spec.covariates)
    sums = yield ask("within", responses=features, predictors=covariates)
    c, x = len(covariates), len(features)
    values = fixed_point.read(sums)
    if len(values) != 1 + c + x + triangle(c) + c * x + x:
        raise ProtocolError("An opened sum has the wrong length.", action="Check that both sides run the same version.")
    n = int(fixed_point.counts(sums[:1])[0])
    if n <= c + 2:
        raise NotEstimable("too few rows", term=features[0], action="Leave out covariates.")
    inner = symmetric(values[1 + c + x :][: triangle(c)], size=c)
    if c:
        newton.invert(inner, names=covariates, diagnosis="aliased")  # for its diagnosis: the numbers below are exact
    whole = [int(value) for value in sums]
    totals = [Fraction(value, 1 << fixed_point.FRACTION_BITS) for value in whole[1 : 1 + c + x]]
    rest = whole[1 + c + x :]
    cross = [rest[triangle(c) + i * x : triangle(c) + (i + 1) * x] for i in range(c)]
    squares = rest[triangle(c) + c * x :]
    effects = _solve(rest[: triangle(c)], cross)
    left = [squares[j] - sum((effects[i][j] * cross[i][j] for i in range(c)), Fraction(0)) for j in range(x)]
    for name, residual, square in zip(features, left, squares, strict=True):
        if square <= 0 or residual <= Fraction(1e-13) * square:
            raise NotEstimable("constant", term=name, action="It does not vary within hospitals beside the covariates.")
    centre_x, half_x = _grid(spec.features)
    centre_c, half_c = _grid(spec.covariates)
    own = [[effects[i][j] * half_x[j] / half_c[i] for j in range(x)] for i in range(c)]
    means_c = [centre_c[i] + half_c[i] * totals[i] / n for i in range(c)]
    means_x = [centre_x[j] + half_x[j] * totals[c + j] / n for j in range(x)]
    grand = [means_x[j] - sum((means_c[i] * own[i][j] for i in range(c)), Fraction(0)) for j in range(x)]
    return Harmonisation(
        features=features,
        covariates=covariates,
        n=n,
        effects=np.array([[float(value) for value in row] for row in own], dtype=np.float64).reshape(c, x),
        grand_means=np.array([float(value) for value in grand]),
        deviations=np.array([math.sqrt(half_x[j] ** 2 * left[j] / (n << fixed_point.FRACTION_BITS)) for j in range(x)]),
    )


def _grid(columns: tuple[Column, ...]) -> tuple[list[Fraction], list[Fraction]]:
    """Return the centres and half widths by which hospitals standardise."""
    grid = [centre_half(column.lower, column.upper) for column in columns]
    return [Fraction(centre) for centre, _ in grid], [Fraction(half) for _, half in grid]


def _solve(inner: Sequence[int], cross: Sequence[Sequence[int]]) -> list[list[Fraction]]:
    """Return the symmetric matrix of the upper triangle `inner`, inverted, times `cross`; raises NotEstimable "aliased".

    Exact: the same bits on every machine, so that hospitals know the coefficients again. Source: Bareiss 1968.
    """
    size, entries = len(cross), iter(inner)
    square = [[0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            square[i][j] = square[j][i] = next(entries)
    rows = [[*left, *right] for left, right in zip(square, cross, strict=True)]
    last = 1
    for k, row in enumerate(rows):
        if row[k] == 0:
            raise NotEstimable("aliased", term="covariates", action="Leave one out.")
        for other in (other for other in rows if other is not row):
            factor = other[k]
            other[:] = [(row[k] * value - factor * held) // last for value, held in zip(other, row, strict=True)]
        last = row[k]
    return [[Fraction(value, last) for value in row[size:]] for row in rows]


def _names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)
