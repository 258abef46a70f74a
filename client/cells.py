"""Which cells of variables sums of products tell: of one variable, or of two, with few values.

Any function that is a product of two columns is summed. So n, the sum and the sum of squares of a number with three values
tell how many patients have each; with its square among the columns, of five values; so do indicators for the level without one.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations, combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from client import span

Float = NDArray[np.float64]

PRODUCTS = 2  # columns in a product that a Gram sums
POWERS = 4  # of a residual that is summed
PAIR_LEVELS_MOST = 16  # of each of two variables
POINTS_MOST = 2048  # of one variable: more need more functions of it than a hospital's leverage allows


def tell_few(values: Float, *, names: Sequence[str], few: int, powers: int = PRODUCTS) -> bool:
    """Say whether sums of products of columns count 1 to `few` patients by the value of a variable, or of two variables.

    `values` (patients, columns); a column's name says of which variables it is a function (common/terms.py). `powers`: up to
    which power columns are summed by themselves. A variable of mostly different values is not looked at.
    """
    behind = [frozenset(map(_variable, name.split(":"))) for name in names]
    coded: dict[str, NDArray[np.int64]] = {}
    for variable in sorted(frozenset().union(*behind)):
        chosen = [at for at, one in enumerate(behind) if one == {variable}]
        points, code, counts = _points(values[:, chosen])
        if not chosen or len(points) > min(POINTS_MOST, len(values) // 2):
            continue
        if 2 <= len(points) <= PAIR_LEVELS_MOST:
            coded[variable] = code
        if bool(np.any(counts <= few)) and (_different(points) >= len(points) or _told(points, counts, few=few, powers=powers)):
            return True
    for one, other in combinations(sorted(coded), 2):
        first, second = coded[one], coded[other]
        if first.max() == second.max() == 1:
            continue  # pairs of two values are judged cell by cell (client/disclosure.py)
        joint = first * PAIR_LEVELS_MOST + second
        cells = np.bincount(joint)
        if not bool(np.any((cells > 0) & (cells <= few))):
            continue
        _, where, counts = np.unique(joint, return_index=True, return_counts=True)
        chosen = [at for at, names_ in enumerate(behind) if names_ <= {one, other}]
        if _told(values[np.ix_(where, chosen)], counts, few=few, powers=powers):
            return True
    return False


def numbers(values: Float, *, names: Sequence[str]) -> tuple[int, int]:
    """Return how many different numbers the sums of products of columns are, and how many values of variables are behind them.

    With more numbers than values the sums could be solved for the values. Products that are alike in every row count once.
    """
    n, p = values.shape
    behind = n * len(frozenset().union(*(map(_variable, name.split(":")) for name in names)))
    most = (p + 1) * (p + 2) // 2
    if most <= behind:
        return most, behind
    return _different(values), behind


def _different(values: Float) -> int:
    """Return how many different products two columns of [1 values] have.

    Of one variable all of them count, however smooth: sums are exact, and the last digits of a transformed value are its own.
    """
    columns = np.concatenate([np.ones((len(values), 1)), values], axis=1)
    pairs = combinations_with_replacement(range(columns.shape[1]), 2)
    return len({hashlib.sha256(columns[:, at] * columns[:, other] + 0.0).digest() for at, other in pairs})


def _told(points: Float, counts: NDArray[np.int64], *, few: int, powers: int) -> bool:
    """Say whether functions that are summed, at points where so many patients stand, leave points of few patients only."""
    width = points.shape[1]
    functions = (width + 1) * (width + 2) // 2 + width * (powers - PRODUCTS)
    if not bool(np.any((counts > 0) & (counts <= few))) or len(points) > functions + few:
        return False
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - (low + high) / 2) / np.where(high > low, (high - low) / 2, 1.0)
    made = [scaled[:, at] * scaled[:, other] for at, other in combinations_with_replacement(range(width), 2)]
    made += [column**power for column in scaled.T for power in range(PRODUCTS + 1, powers + 1)]
    return span.concentrated(span.basis(np.column_stack([scaled, *made])), counts=counts, few=few)


def _points(columns: Float) -> tuple[Float, NDArray[np.int64], NDArray[np.int64]]:
    """Return the different rows, which of them each patient has, and how many patients have each."""
    if columns.shape[1] == 1:
        found, code, counts = np.unique(columns[:, 0], return_inverse=True, return_counts=True)
        return found[:, None], code.astype(np.int64), counts.astype(np.int64)
    found, code, counts = np.unique(columns, axis=0, return_inverse=True, return_counts=True)
    return found, code.reshape(-1).astype(np.int64), counts.astype(np.int64)


def _variable(piece: str) -> str:
    """Return the variable of `age`, `log(age)` or `grade[g2]`."""
    return piece.partition("[")[0].rpartition("(")[2].rstrip(")")
