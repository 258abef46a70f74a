"""The opened Gram of a query: exact rational means and scatter of columns in their own units."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.errors import ProtocolError
from common.fixed_point import FRACTION_BITS
from common.query import Column, centre_half, triangle


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondMoments:
    """`n` rows, `means`, and `scatter`: sums of products of deviations from the means; rationals, in the columns' units."""

    n: int
    means: tuple[Fraction, ...]
    scatter: tuple[tuple[Fraction, ...], ...]


def read(sums: Sequence[int], *, columns: Sequence[Column]) -> SecondMoments | None:
    """Read the answer to the query "gram"; None without a row. Raises ProtocolError when it is no Gram of that many columns."""
    p = len(columns)
    if len(sums) != triangle(p + 1):
        raise ProtocolError("An opened sum has the wrong length.", action="Check that both sides run the same version.")
    upper = iter(Fraction(int(value), 1 << FRACTION_BITS) for value in sums)
    rows = [[Fraction(0)] * i + [next(upper) for _ in range(i, p + 1)] for i in range(p + 1)]
    n, totals = rows[0][0], rows[0][1:]
    if n.denominator != 1 or n < 0:
        raise ProtocolError("An opened sum holds no number of rows.", action="Do not use it.")
    if n == 0:
        return None
    grid = [tuple(map(Fraction, centre_half(column.lower, column.upper))) for column in columns]
    scatter = [[Fraction(0)] * p for _ in range(p)]
    for i in range(p):
        for j in range(i, p):
            value = (rows[i + 1][j + 1] - totals[i] * totals[j] / n) * grid[i][1] * grid[j][1]
            scatter[i][j] = scatter[j][i] = value
    return SecondMoments(
        n=int(n),
        means=tuple(centre + half * total / n for (centre, half), total in zip(grid, totals, strict=True)),
        scatter=tuple(tuple(row) for row in scatter),
    )
