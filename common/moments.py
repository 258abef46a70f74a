"""The one wide Gram of a study: 52-bit integer columns, their exact products, and the moments read from a sum.

A column becomes z = rint(x * 2**k) - C, with k and C from the study's declared bounds, so every hospital uses the same grid and
|z| <= 2**52 + 1. The Gram of z is a vector of integers: the sum over hospitals is the same bits for any partition of the rows.
Source: reference secure-sum.md section 7, level B.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError, ProtocolError
from common.fixed_point import ROWS_MOST
from common.query import triangle
from common.study import Study

BITS = 52  # of a column's half width: 2 * (52 + small), 22 of ROWS_MOST and a sign stay inside 127
DIGIT_BITS = 14  # four balanced digits hold 55 bits; products of two digits, summed over 2**22 rows, stay below 2**53
DIGITS = 4
BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The public grid of one column: x = (z + origin) / 2**exponent, for x in [lower, upper]."""

    lower: float
    upper: float
    exponent: int
    origin: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Exact first and second moments of the complete rows, on the integer grid.

    `sums[i]` is 2**exponents[i] times the sum of column i. `cross[i][j]` is n * 2**(exponents[i] + exponents[j]) times
    the sum of products of the deviations from the means. Everything is an integer; nothing was rounded after the grid.
    """

    columns: tuple[str, ...]
    n: int
    exponents: tuple[int, ...]
    sums: tuple[int, ...]
    cross: tuple[tuple[int, ...], ...]

    def index(self, name: str) -> int:
        """Return the position of column `name`; raises ConfigError when it is not among the columns."""
        if name not in self.columns:
            raise ConfigError(f"{name!r} is not a column of this Gram.", action="Name columns of the study only.")
        return self.columns.index(name)

    def mean(self, name: str) -> Fraction:
        """Return the exact mean of a column, in its unit."""
        i = self.index(name)
        return Fraction(self.sums[i], self.n) / Fraction(2) ** self.exponents[i]

    def scatter(self, first: str, second: str) -> Fraction:
        """Return the exact sum of products of deviations from the means, in the product of the two units."""
        i, j = self.index(first), self.index(second)
        return Fraction(self.cross[i][j], self.n) / Fraction(2) ** (self.exponents[i] + self.exponents[j])


def scales(study: Study) -> tuple[Scale, ...]:
    """Return the grid of every column of `study`, in the order of study.columns().

    With the bounds as float64, centre c = float64((lower + upper) / 2) and half = max(upper - c, c - lower), exactly:
    k = 52 - ceil(log2(half)) and C = rint(c * 2**k), all in rational arithmetic.
    Raises ConfigError when float64 cannot tell the two bounds apart.
    """
    return tuple(scale(column.name, bounds=study.bounds(column)) for column in study.design())


def size(p: int) -> int:
    """Return the length of the Gram vector of `p` columns: the upper triangle with the leading column of ones."""
    return triangle(p + 1)


def fixed_point(columns: NDArray[np.float64], *, study: Study) -> NDArray[np.int64]:
    """Put complete rows on the study's integer grid.

    `columns` has shape (rows, p), ordered as study.columns(); the result has the same shape, |z| <= 2**52 + 1.
    Guarantee: one rounding a value, to the nearest grid point, ties to even. x * 2**k is exact, and the difference of two
    integers that are exact in float64 is exact when it is below 2**53.
    No rows give no rows. A value that is missing, infinite or outside its bounds raises DataError that names the column.
    """
    return on_grid(columns, names=study.columns(), grid=scales(study))


def on_grid(columns: NDArray[np.float64], *, names: Sequence[str], grid: Sequence[Scale]) -> NDArray[np.int64]:
    """Put complete rows on any columns' grids; as `fixed_point`."""
    if columns.ndim != 2 or columns.shape[1] != len(grid):
        raise DataError("The table does not have the study's columns.", action="Pass (rows, columns) in the study's order.")
    z = np.empty(columns.shape, dtype=np.int64)
    for j, (name, scale) in enumerate(zip(names, grid, strict=True)):
        x = columns[:, j].astype(np.float64, copy=False)
        if not np.all((x >= scale.lower) & (x <= scale.upper)):
            raise DataError(
                f"Column {name} has a value that is missing or outside its declared bounds.",
                action="Leave such rows out; a value outside is missing, never clipped.",
            )
        z[:, j] = (np.rint(np.ldexp(x, scale.exponent)) - float(scale.origin)).astype(np.int64)
    return z


def gram(z: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return the exact integer Gram of [1 z]: its upper triangle, row by row, as Python integers.

    `z` has shape (rows, p), |z| < 2**53; the result has shape (size(p),), dtype object; entry 0 is the number of rows.
    Guarantee: no rounding anywhere; the sum of the Grams of the parts is the Gram of the whole for any partition.
    Raises DataError on more than 2**22 rows or a larger |z|.
    Source: error-free slicing (Ozaki et al. 2012): digits are so short that BLAS cannot round, in any order.
    """
    if z.ndim != 2 or z.dtype != np.int64:
        raise TypeError("gram takes a matrix of int64")
    rows, p = z.shape
    if rows > ROWS_MOST:
        raise DataError(f"The table has more than {ROWS_MOST} rows.", action="Split the study; the ring holds no more.")
    if z.size and (int(z.max()) >= 2**53 or int(z.min()) <= -(2**53)):
        raise DataError("A value is outside the 53 bits of the grid.", action="Use fixed_point to make the integers.")
    q = p + 1
    products = np.zeros((DIGITS * q, DIGITS * q))
    for start in range(0, rows, BLOCK_ROWS):
        digits = _digits(z[start : start + BLOCK_ROWS])
        products += digits.T @ digits
    by_pair = products.astype(np.int64).reshape(DIGITS, q, DIGITS, q)
    total = np.zeros((q, q), dtype=object)
    for weight in range(2 * DIGITS - 1):
        pairs = [(a, weight - a) for a in range(DIGITS) if 0 <= weight - a < DIGITS]
        together = np.sum([by_pair[a, :, b, :] for a, b in pairs], axis=0)
        total += together.astype(object) << (DIGIT_BITS * weight)
    vector: NDArray[np.object_] = total[np.triu_indices(q)]
    return vector


def from_total(total: Sequence[int], *, study: Study) -> Moments:
    """Read the moments from the opened sum of Grams; exact integers, recentred on the pooled means.

    `total` holds size(p) signed integers as `gram` orders them.
    Raises DataError when no row is in it, or more than 2**22; ProtocolError when it is not a Gram matrix on the study's grid
    (wrong length, a square below zero, |correlation| above 1): a hospital sent something else.
    """
    return read(total, names=study.columns(), grid=scales(study))


def read(total: Sequence[int], *, names: Sequence[str], grid: Sequence[Scale]) -> Moments:
    """Read the moments of any columns on their grids; as `from_total`."""
    p = len(grid)
    if len(total) != size(p):
        raise _not_a_gram("it has the wrong length")
    upper = iter(int(value) for value in total)
    rows = [[0] * i + [next(upper) for _ in range(i, p + 1)] for i in range(p + 1)]
    n, sums = rows[0][0], rows[0][1:]
    if n < 0:
        raise _not_a_gram("it has a negative number of rows")
    if not 1 <= n <= ROWS_MOST:
        what = "No patient has a value in every column." if n == 0 else f"The sum has more than {ROWS_MOST} rows."
        raise DataError(what, action="Choose columns that are seldom missing, or split the study.")
    cross = [[0] * p for _ in range(p)]
    for i in range(p):
        for j in range(i, p):
            cross[i][j] = cross[j][i] = n * rows[i + 1][j + 1] - sums[i] * sums[j]
    if any(abs(s) > n * (2**BITS + 1) or rows[i + 1][i + 1] > n * (2**BITS + 1) ** 2 for i, s in enumerate(sums)):
        raise _not_a_gram("a column leaves its declared bounds")
    if any(cross[i][j] ** 2 > cross[i][i] * cross[j][j] or cross[i][i] < 0 for i in range(p) for j in range(i, p)):
        raise _not_a_gram("a correlation is above 1")
    return Moments(
        columns=tuple(names),
        n=n,
        exponents=tuple(scale.exponent for scale in grid),
        sums=tuple(s + n * scale.origin for s, scale in zip(sums, grid, strict=True)),
        cross=tuple(tuple(row) for row in cross),
    )


def scale(name: str, *, bounds: tuple[float, float]) -> Scale:
    """Return a column's grid from its bounds, as `scales` says; raises ConfigError."""
    lower, upper = bounds
    if lower >= upper:
        raise ConfigError(f"The bounds of {name} are the same number in float64.", action="Declare wider bounds.")
    centre = Fraction(float((Fraction(lower) + Fraction(upper)) / 2))
    exponent = BITS - _ceil_log2(max(Fraction(upper) - centre, centre - Fraction(lower)))
    return Scale(lower=lower, upper=upper, exponent=exponent, origin=round(centre * Fraction(2) ** exponent))


def _ceil_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - 1
    while Fraction(2) ** exponent < value:
        exponent += 1
    return exponent


def _digits(z: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the balanced 14-bit digits of [1 z] side by side: shape (rows, 4 * (p + 1))."""
    rest = np.concatenate([np.ones((len(z), 1), dtype=np.int64), z], axis=1)
    parts = []
    for _ in range(DIGITS - 1):
        low = ((rest + (1 << (DIGIT_BITS - 1))) & ((1 << DIGIT_BITS) - 1)) - (1 << (DIGIT_BITS - 1))
        parts.append(low.astype(np.float64))
        rest = (rest - low) >> DIGIT_BITS
    return np.concatenate([*parts, rest.astype(np.float64)], axis=1)


def _not_a_gram(why: str) -> ProtocolError:
    return ProtocolError(
        f"The opened sum is not a Gram matrix of this study: {why}.",
        action="Do not use it; ask each hospital which version it runs.",
    )
