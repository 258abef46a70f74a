"""Moments become one group per level of a factor: its size, mean and sum of squares, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from common import terms
from common.errors import NotEstimable
from common.moments import Moments
from common.terms import Piece

FLOOR = Fraction(1, 2**44)  # of a sum of squares: what roundings to two grids of 52 bits can leave in the reference group


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The patients of one level: `squares` is the sum of squared deviations of the outcome from the group's mean."""

    level: str
    n: int
    mean: Fraction
    squares: Fraction

    @property
    def variance(self) -> Fraction:
        """Return the sample variance, n - 1 in the denominator."""
        return self.squares / (self.n - 1)


def groups(moments: Moments, *, outcome: str, factor: str, levels: Sequence[str]) -> tuple[Group, ...]:
    """Return the groups that hold a patient, in the order of the declared levels.

    Needs the columns of study.statistics.groups: the outcome, the factor's indicators and their products with the outcome.
    Guarantee: exact sums of the outcome on its grid; nothing per patient, no minimum or maximum.
    Raises NotEstimable "too few rows" where a level has one patient (its value would be seen), "constant" where a group does
    not vary, "one group" where no second level has a patient; ConfigError when a column is missing.
    """
    sums: list[tuple[str, Fraction, Fraction, Fraction]] = []
    for level in levels[1:]:
        indicator = terms.column(Piece(variable=factor, level=level)).name
        product = terms.column(Piece(variable=outcome), Piece(variable=factor, level=level)).name
        sums.append((level, _sum(moments, indicator), _sum(moments, product), _square(moments, product)))
    count, total, square = Fraction(moments.n), _sum(moments, outcome), _square(moments, outcome)
    for _, n, s, ss in sums:
        count, total, square = count - n, total - s, square - ss
    held = [one for one in [(levels[0], count, total, square), *sums] if one[1] != 0]
    if len(held) < 2:
        raise NotEstimable("one group", term=factor, action="Compare levels that at least two groups of patients have.")
    return tuple(_group(f"{factor}[{one[0]}]", *one) for one in held)


def _group(name: str, level: str, n: Fraction, total: Fraction, square: Fraction) -> Group:
    if n < 2:
        raise NotEstimable("too few rows", term=name, action="Join it with another level: one patient is no group.")
    mean = total / n
    squares = square - n * mean**2
    if squares <= square * FLOOR:
        raise NotEstimable("constant", term=name, action="Leave the group out: its patients all have the same value.")
    return Group(level=level, n=int(n), mean=mean, squares=squares)


def _sum(moments: Moments, name: str) -> Fraction:
    return moments.mean(name) * moments.n


def _square(moments: Moments, name: str) -> Fraction:
    return moments.scatter(name, name) + moments.n * moments.mean(name) ** 2
