"""Least squares on the exact integer scatter matrix: sweeps without rounding, and rational linear forms of the coefficients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.errors import ConfigError, NotEstimable, ProtocolError
from common.moments import Moments

RESOLUTION_MARGIN = 64  # how far a residual must stand above what the data's own digits could leave

Form = Mapping[str, Fraction]  # column name -> weight of its coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A least squares fit in exact integers.

    With A the integer scatter matrix of predictors and outcome (n times the centred one, on the grid), d the determinant of
    the predictors' block and M the swept matrix: inverse = -M/d in the block, coefficients = M/d in the last column, residual
    sum of squares = M/d in the corner. `unit[j]` is the grid's 2**exponent. `absorbed` counts the hospitals whose means were
    taken out before; without it the intercept is the one mean.
    """

    outcome: str
    predictors: tuple[str, ...]
    n: int
    df: int
    absorbed: int
    swept: tuple[tuple[int, ...], ...]
    determinant: int
    unit: tuple[Fraction, ...]
    mean: tuple[Fraction, ...]  # of predictors, then outcome, in their units
    square: tuple[int, ...]  # the diagonal of A

    @property
    def residual(self) -> Fraction:
        """Return the residual sum of squares."""
        return Fraction(self.swept[-1][-1], self.n * self.determinant) / self.unit[-1] ** 2

    @property
    def total(self) -> Fraction:
        """Return the total sum of squares about the mean."""
        return Fraction(self.square[-1], self.n) / self.unit[-1] ** 2

    @property
    def variance(self) -> Fraction:
        """Return the residual variance."""
        return self.residual / self.df

    def form(self, weights: Form) -> tuple[Fraction, Fraction]:
        """Return the value of a linear form of the coefficients and w' (X'X)^-1 w; the variance is that times `variance`."""
        scaled, denominator = self._integers([weights])
        (row,) = scaled
        value = sum(w * self.swept[j][-1] for j, w in row.items())
        spread = -sum(w * v * self.swept[i][j] for i, w in row.items() for j, v in row.items())
        return (
            Fraction(value, self.determinant * denominator) / self.unit[-1],
            Fraction(spread * self.n, self.determinant * denominator**2),
        )

    def explained(self, forms: Sequence[Form]) -> Fraction:
        """Return the sum of squares of the hypothesis that all `forms` are zero: v' (L (X'X)^-1 L')^-1 v.

        Raises NotEstimable when the forms depend on one another.
        """
        rows, _ = self._integers(forms)  # the sum of squares does not depend on the forms' scale
        matrix = [
            [
                *(-sum(w * v * self.swept[i][j] for i, w in one.items() for j, v in other.items()) for other in rows),
                sum(w * self.swept[i][-1] for i, w in one.items()),
            ]
            for one in rows
        ]
        matrix.append([*(row[-1] for row in matrix), 0])
        last = 1
        for k in range(len(rows)):
            if matrix[k][k] <= 0:
                raise NotEstimable("aliased", term=self.outcome, action="A hypothesis was asked twice; leave one out.")
            last = _eliminate(matrix, pivot=k, last=last)
        return Fraction(-matrix[-1][-1], last) / (self.n * self.determinant) / self.unit[-1] ** 2

    def _integers(self, forms: Sequence[Form]) -> tuple[list[dict[int, int]], int]:
        """Return the forms over grid units, by position, as integers over one common denominator."""
        rows = [
            {(j := self.predictors.index(name)): weight * self.unit[j] for name, weight in form.items() if weight != 0}
            for form in forms
        ]
        denominator = math.lcm(*(weight.denominator for row in rows for weight in row.values()))
        return [{j: int(weight * denominator) for j, weight in row.items()} for row in rows], denominator


def solve(moments: Moments, *, outcome: str, predictors: Sequence[str], absorbed: int = 0) -> Solved:
    """Regress `outcome` on `predictors`, with an intercept, or with the means of `absorbed` hospitals taken out before.

    Raises NotEstimable "too few rows", "constant", "aliased" or "perfect fit"; ConfigError on names unknown, repeated or none;
    ProtocolError when the total is no Gram matrix.
    Source: fraction-free Gauss-Jordan elimination (Bareiss 1968).
    """
    names = [*predictors, outcome]
    columns = _columns(moments, names=names)
    p = len(predictors)
    df = moments.n - p - max(1, absorbed)
    if df < 1:
        count = p + max(1, absorbed)
        raise NotEstimable(
            "too few rows", term=outcome, action=f"{count} coefficients need more than {count} complete patients."
        )
    _check_varying(moments, names=names, columns=columns)
    matrix = [[moments.cross[i][j] for j in columns] for i in columns]
    floor = _floor(moments, columns=columns)
    last = 1
    for k in range(p):
        _check_pivot(matrix[k][k], last, floor=floor * moments.cross[columns[k]][columns[k]], name=names[k], fitted=False)
        last = _sweep(matrix, pivot=k, last=last)
    _check_pivot(matrix[p][p], last, floor=floor * moments.cross[columns[p]][columns[p]], name=outcome, fitted=True)
    return Solved(
        outcome=outcome,
        predictors=tuple(predictors),
        n=moments.n,
        df=df,
        absorbed=absorbed,
        swept=tuple(tuple(row) for row in matrix),
        determinant=last,
        unit=tuple(Fraction(2) ** moments.exponents[i] for i in columns),
        mean=tuple(moments.mean(name) for name in names),
        square=tuple(moments.cross[i][i] for i in columns),
    )


def residual(moments: Moments, *, outcome: str, predictors: Sequence[str]) -> Fraction:
    """Return the residual sum of squares of `outcome` on `predictors` with an intercept; no predictors are allowed.

    Raises NotEstimable "constant" or "aliased", ConfigError, ProtocolError as `solve` does.
    """
    names = [*predictors, outcome]
    columns = _columns(moments, names=names, least=0)
    _check_varying(moments, names=names, columns=columns)
    matrix = [[moments.cross[i][j] for j in columns] for i in columns]
    floor = _floor(moments, columns=columns)
    last = 1
    for k in range(len(predictors)):
        _check_pivot(matrix[k][k], last, floor=floor * moments.cross[columns[k]][columns[k]], name=names[k], fitted=False)
        last = _eliminate(matrix, pivot=k, last=last)
    return Fraction(matrix[-1][-1], last * moments.n) / Fraction(4) ** moments.exponents[columns[-1]]


def inverse(moments: Moments, *, names: Sequence[str]) -> tuple[list[list[int]], int]:
    """Return (B, d): the inverse of the integer scatter matrix of `names` is B/d, exactly.

    Raises NotEstimable "constant" or "aliased", ConfigError, ProtocolError.
    """
    return partial(moments, names=(), given=names)


def partial(moments: Moments, *, names: Sequence[str], given: Sequence[str]) -> tuple[list[list[int]], int]:
    """Sweep `given` out: return (R, d), the scatter matrix of `names` about their fits on `given` is R/d on the integer grid.

    With no `names` R/d is the inverse of the scatter matrix of `given`. Raises as `inverse` does.
    """
    both = [*given, *names]
    columns = _columns(moments, names=both)
    _check_varying(moments, names=both, columns=columns)
    matrix = [[moments.cross[i][j] for j in columns] for i in columns]
    floor = _floor(moments, columns=columns)
    last = 1
    for k in range(len(given)):
        _check_pivot(matrix[k][k], last, floor=floor * moments.cross[columns[k]][columns[k]], name=both[k], fitted=False)
        last = _sweep(matrix, pivot=k, last=last)
    if not names:
        return [[-entry for entry in row] for row in matrix], last
    return [row[len(given) :] for row in matrix[len(given) :]], last


def resolution(moments: Moments, *, column: int) -> Fraction:
    """Return the square of a column's smallest step over its variance: the grid's step, or float64's at its mean."""
    step = max(Fraction(1), Fraction(abs(moments.sums[column]), moments.n * 2**52))
    return moments.n**2 * step**2 / moments.cross[column][column]


def _columns(moments: Moments, *, names: Sequence[str], least: int = 1) -> list[int]:
    columns = [moments.index(name) for name in names]
    if len(set(names)) != len(names) or len(names) <= least:
        raise ConfigError("A regression names each column once, and at least one predictor.", action="Mend the study.")
    return columns


def _check_varying(moments: Moments, *, names: Sequence[str], columns: Sequence[int]) -> None:
    for name, i in zip(names, columns, strict=True):
        if moments.cross[i][i] == 0:
            raise NotEstimable("constant", term=name, action="Leave it out: every patient has the same value.")


def _floor(moments: Moments, *, columns: Sequence[int]) -> Fraction:
    return RESOLUTION_MARGIN * len(columns) * max(resolution(moments, column=i) for i in columns)


def _check_pivot(pivot: int, last: int, *, floor: Fraction, name: str, fitted: bool) -> None:
    if pivot < 0:
        raise ProtocolError("The opened sum is not a Gram matrix.", action="Do not use it; a hospital sent something else.")
    if pivot * floor.denominator <= floor.numerator * last:
        what, action = ("perfect fit", "The predictors give it exactly") if fitted else ("aliased", "Those before it give it")
        raise NotEstimable(what, term=name, action=f"{action}; leave one out.")


def _sweep(matrix: list[list[int]], *, pivot: int, last: int) -> int:
    """Sweep one symmetric pivot, every division exact (each entry is a minor); return the new last pivot."""
    value, row = matrix[pivot][pivot], list(matrix[pivot])
    size = len(matrix)
    for i in range(size):
        if i == pivot:
            continue
        factor, line = row[i], matrix[i]
        for j in range(i, size):
            if j != pivot:
                line[j] = matrix[j][i] = (value * line[j] - factor * row[j]) // last
    matrix[pivot][pivot] = -last
    return value


def _eliminate(matrix: list[list[int]], *, pivot: int, last: int) -> int:
    """Eliminate below one symmetric pivot only; return the new last pivot."""
    value, row = matrix[pivot][pivot], matrix[pivot]
    size = len(matrix)
    for i in range(pivot + 1, size):
        factor, line = row[i], matrix[i]
        for j in range(i, size):
            line[j] = matrix[j][i] = (value * line[j] - factor * row[j]) // last
    return value
