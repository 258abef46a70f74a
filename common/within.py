"""Second moments about each hospital's own means: fixed effects of hospitals, absorbed before anything leaves.

By Frisch and Waugh 1933 and Lovell 1963 a fit on such columns is the fit with one intercept per hospital. No hospital's mean or
sum is in the vector: only its number of patients, a one to count hospitals, and products of deviations.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common import moments
from common.errors import DataError, ProtocolError
from common.fixed_point import ROWS_MOST
from common.moments import Moments, Scale


def size(p: int) -> int:
    """Return the length of the vector of `p` columns."""
    return 2 + p * (p + 1) // 2


def within(z: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return n, one, and the upper triangle of the scatter of `z` about this hospital's means, row by row, as Python integers.

    `z` has shape (rows, p) on its columns' grids (moments.on_grid). The scatter is exact and rounded once to an integer, an
    error of 2**-105 of a column's squared half width. No rows give zeros. Raises as moments.gram.
    """
    p = z.shape[1]
    upper = iter(moments.gram(z).tolist())
    rows = [[0] * i + [next(upper) for _ in range(i, p + 1)] for i in range(p + 1)]
    n, sums = rows[0][0], rows[0][1:]
    if n == 0:
        return np.zeros(size(p), dtype=object)
    scatter = [_nearest(n * rows[i + 1][j + 1] - sums[i] * sums[j], n) for i in range(p) for j in range(i, p)]
    return np.array([n, 1, *scatter], dtype=object)


def from_total(total: Sequence[int], *, names: Sequence[str], grid: Sequence[Scale]) -> tuple[Moments, int]:
    """Read the opened sum of columns on their grids: moments whose means are all zero, and how many hospitals had a row.

    Raises DataError when no row is in it, ProtocolError when it is no sum of such vectors on these grids.
    """
    p = len(grid)
    if len(total) != size(p):
        raise _wrong("it has the wrong length")
    n, hospitals, *upper = (int(value) for value in total)
    if not 0 <= hospitals <= n <= ROWS_MOST:
        raise _wrong("its counts are not possible")
    if n == 0:
        raise DataError("No patient has a value in every column.", action="Choose columns that are seldom missing.")
    entries = iter(upper)
    cross = [[0] * p for _ in range(p)]
    for i in range(p):
        for j in range(i, p):
            cross[i][j] = cross[j][i] = next(entries)
    for i in range(p):
        if not 0 <= cross[i][i] <= n * (2**moments.BITS + 1) ** 2:
            raise _wrong("a column leaves its declared bounds")
        if any(max(0, abs(cross[i][j]) - hospitals) ** 2 > cross[i][i] * cross[j][j] for j in range(p)):
            raise _wrong("a correlation is above 1")
    held = Moments(
        columns=tuple(names),
        n=n,
        exponents=tuple(scale.exponent for scale in grid),
        sums=(0,) * p,
        cross=tuple(tuple(n * entry for entry in row) for row in cross),
    )
    return held, hospitals


def _nearest(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _wrong(why: str) -> ProtocolError:
    return ProtocolError(
        f"The opened sum is not one of scatters within hospitals: {why}.",
        action="Do not use it; ask each hospital which version it runs.",
    )
