"""Least squares on the integer scatter matrix: sweeps in wide fixed point, and linear forms of the coefficients.

The scatter matrix is exact. It is scaled by powers of two to a diagonal of about 1 and swept with 640 binary digits after the
point. A column that others give to within the data's own digits (some 90 bits) is refused, so more than 400 bits are left:
every figure is that of the integer table, rounded once to float64. Exact elimination gives the same figures at the cost of
integers that grow with every column.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.errors import ConfigError, NotEstimable, ProtocolError
from common.moments import Moments

RESOLUTION_MARGIN = 64  # how far a residual must stand above what the data's own digits could leave
POINT = 640  # binary digits after the point
ONE = 1 << POINT

Form = Mapping[str, Fraction]  # column name -> weight of its coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A least squares fit.

    With A the scatter matrix of predictors and outcome, n times the centred one, in scaled units (x times `unit`), and M the
    swept matrix over 2**640: inverse = -M in the predictors' block, coefficients = M in the last column, residual sum of
    squares = M in the corner. `square` is the diagonal of A. `absorbed` counts the hospitals whose means were taken out before;
    without it the intercept is the one mean.
    """

    outcome: str
    predictors: tuple[str, ...]
    n: int
    df: int
    absorbed: int
    swept: tuple[tuple[int, ...], ...]
    unit: tuple[Fraction, ...]
    mean: tuple[Fraction, ...]  # of predictors, then outcome, in their units
    square: tuple[Fraction, ...]

    @property
    def residual(self) -> Fraction:
        """Return the residual sum of squares."""
        return Fraction(self.swept[-1][-1], self.n * ONE) / self.unit[-1] ** 2

    @property
    def total(self) -> Fraction:
        """Return the total sum of squares about the mean."""
        return self.square[-1] / self.n / self.unit[-1] ** 2

    @property
    def variance(self) -> Fraction:
        """Return the residual variance."""
        return self.residual / self.df

    def form(self, weights: Form) -> tuple[Fraction, Fraction]:
        """Return the value of a linear form of the coefficients and w' (X'X)^-1 w; the variance is that times `variance`."""
        (row,), denominator = self._integers([weights])
        value = sum(w * self.swept[j][-1] for j, w in row.items())
        spread = -sum(w * v * self.swept[i][j] for i, w in row.items() for j, v in row.items())
        return (
            Fraction(value, ONE * denominator) / self.unit[-1],
            Fraction(spread * self.n, ONE * denominator**2),
        )

    def inverse(self, first: int, second: int) -> Fraction:
        """Return an entry of (X'X)^-1 of the centred predictors, by position, in their units."""
        return Fraction(-self.swept[first][second] * self.n, ONE) * self.unit[first] * self.unit[second]

    def inflation(self, position: int) -> Fraction:
        """Return the variance inflation of a predictor."""
        return self.square[position] * Fraction(-self.swept[position][position], ONE)

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
        for k in range(len(rows)):  # fraction-free (Bareiss 1968): few rows, exact divisions
            if matrix[k][k] <= 0:
                raise NotEstimable("aliased", term=self.outcome, action="A hypothesis was asked twice; leave one out.")
            last = _eliminate(matrix, pivot=k, last=last)
        return Fraction(-matrix[-1][-1], last) / (self.n * ONE) / self.unit[-1] ** 2

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
    scaled = _scaled(moments, names=names, columns=columns)
    scaled.sweep(p)
    scaled.check(p, fitted=True)
    return Solved(
        outcome=outcome,
        predictors=tuple(predictors),
        n=moments.n,
        df=df,
        absorbed=absorbed,
        swept=tuple(tuple(row) for row in scaled.matrix),
        unit=tuple(Fraction(2) ** (moments.exponents[i] - shift) for i, shift in zip(columns, scaled.shifts, strict=True)),
        mean=tuple(moments.mean(name) for name in names),
        square=tuple(Fraction(entry, ONE) for entry in scaled.diagonal),
    )


def sequence(moments: Moments, *, outcome: str, predictors: Sequence[str]) -> list[Fraction]:
    """Return the residual sums of squares of `outcome` on none of `predictors`, the first, the first two, up to all of them.

    Raises NotEstimable "constant" or "aliased", ConfigError, ProtocolError as `solve` does.
    """
    names = [*predictors, outcome]
    columns = _columns(moments, names=names)
    scaled = _scaled(moments, names=names, columns=columns)
    unit = Fraction(2) ** (moments.exponents[columns[-1]] - scaled.shifts[-1])
    corners = [scaled.matrix[-1][-1]]
    for k in range(len(predictors)):
        scaled.check(k, fitted=False)
        _pivot(scaled.matrix, at=k)
        corners.append(scaled.matrix[-1][-1])
    return [Fraction(corner, moments.n * ONE) / unit**2 for corner in corners]


def inverse(moments: Moments, *, names: Sequence[str]) -> list[list[int]]:
    """Return the inverse of the scatter matrix of `names` up to positive factors of its columns and rows.

    Raises NotEstimable "constant" or "aliased", ConfigError, ProtocolError.
    """
    scaled = _scaled(moments, names=names, columns=_columns(moments, names=names))
    scaled.sweep(len(names))
    return [[-entry for entry in row] for row in scaled.matrix]


def partial(moments: Moments, *, names: Sequence[str], given: Sequence[str]) -> list[list[int]]:
    """Return the scatter matrix of `names` about their fits on `given`, up to positive factors of its columns and rows.

    Raises as `inverse`; "aliased" also where nothing of one of `names` is left.
    """
    both = [*given, *names]
    scaled = _scaled(moments, names=both, columns=_columns(moments, names=both))
    scaled.sweep(len(given))
    for k in range(len(given), len(both)):
        scaled.check(k, fitted=False)
    return [row[len(given) :] for row in scaled.matrix[len(given) :]]


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


@dataclass(slots=True, kw_only=True)
class _Scaled:
    """A scatter matrix in fixed point while it is swept; `shifts` are the powers of two by which its columns were divided."""

    names: Sequence[str]
    shifts: list[int]
    diagonal: list[int]
    floor: Fraction
    matrix: list[list[int]]

    def sweep(self, count: int) -> None:
        for k in range(count):
            self.check(k, fitted=False)
            _pivot(self.matrix, at=k)

    def check(self, k: int, *, fitted: bool) -> None:
        least = self.floor.numerator * self.diagonal[k] // self.floor.denominator
        if self.matrix[k][k] < -least:
            raise ProtocolError("The opened sum is not a Gram matrix.", action="Do not use it; a hospital sent something else.")
        if self.matrix[k][k] <= least:
            what, action = (
                ("perfect fit", "The predictors give it exactly") if fitted else ("aliased", "Those before it give it")
            )
            raise NotEstimable(what, term=self.names[k], action=f"{action}; leave one out.")


def _scaled(moments: Moments, *, names: Sequence[str], columns: Sequence[int]) -> _Scaled:
    _check_varying(moments, names=names, columns=columns)
    shifts = [moments.cross[i][i].bit_length() // 2 for i in columns]
    matrix = [
        [(moments.cross[i][j] << POINT) >> (a + b) for j, b in zip(columns, shifts, strict=True)]
        for i, a in zip(columns, shifts, strict=True)
    ]
    floor = RESOLUTION_MARGIN * len(columns) * max(resolution(moments, column=i) for i in columns)
    return _Scaled(names=names, shifts=shifts, diagonal=[matrix[k][k] for k in range(len(names))], floor=floor, matrix=matrix)


def _pivot(matrix: list[list[int]], *, at: int) -> None:
    """Sweep one symmetric pivot in fixed point (Goodnight 1979): the pivot becomes minus its inverse."""
    value = matrix[at][at]
    row = list(matrix[at])
    share = [(entry << POINT) // value for entry in row]
    size = len(matrix)
    for i in range(size):
        if i == at:
            continue
        factor, line = share[i], matrix[i]
        for j in range(i, size):
            if j != at:
                line[j] = matrix[j][i] = line[j] - (factor * row[j] >> POINT)
        line[at] = matrix[at][i] = factor
    matrix[at][at] = -(1 << 2 * POINT) // value


def _eliminate(matrix: list[list[int]], *, pivot: int, last: int) -> int:
    """Eliminate below one symmetric pivot only; return the new last pivot."""
    value, row = matrix[pivot][pivot], matrix[pivot]
    size = len(matrix)
    for i in range(pivot + 1, size):
        factor, line = row[i], matrix[i]
        for j in range(i, size):
            line[j] = matrix[j][i] = (value * line[j] - factor * row[j]) // last
    return value
