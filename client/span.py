"""What a sum of products shows: every direction in the span of its columns, and how much of one a few patients hold."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

RANK_LEAST = 1e-11  # of the largest singular value; the sums are exact, so what a nearly aliased column adds can be read
WELL_LEAST = 1e-6  # of the largest eigenvalue of the products of columns: a basis made of them is orthonormal to 1e-10
HEAD = 16  # times as many rows as a column may have values: a number shows there already that it has more
TELLS_LEAST = 1 - 1e-6  # of an indicator's length in the span: it can be written in the columns
CHOICES_MOST = 5000  # of points; what would take more to know counts as told
WEIGHT_LEAST = 1e-7  # of a point, squared, in vectors that are zero but for few points; of less nobody reads a value
FAR_LEAST = 0.5  # of a pair of columns that a few patients may hold before it is looked at closely


def basis(values: Float) -> Float:
    """Return an orthonormal basis of [1 values], shape (patients, rank); the squared length of its row is a patient's leverage.

    The largest share of a direction's squared length that one patient holds, over all directions in the span, is the
    leverage; 1 means that some combination of the columns is zero for everybody else. Columns are scaled to one length first,
    so units do not matter. Raises nothing for constant or aliased columns. Source: Hoaglin, Welsch 1978.
    """
    n = len(values)
    ones = np.full((n, 1), 1 / np.sqrt(n))
    centred = values - values.mean(axis=0)
    centred -= centred.mean(axis=0)
    size = np.abs(values).max(axis=0, initial=0.0)
    varies = np.abs(centred).max(axis=0, initial=0.0) > 8 * np.finfo(np.float64).eps * size
    kept = centred[:, varies] / np.abs(centred[:, varies]).max(axis=0)
    kept = kept / np.sqrt((kept * kept).sum(axis=0))
    if not kept.size:
        return ones
    result: Float = np.concatenate([ones, _orthonormal(kept)], axis=1)
    return result


def _orthonormal(values: Float) -> Float:
    """Return an orthonormal basis of columns: by their products where that keeps ten digits, else by singular values."""
    squares, axes = np.linalg.eigh(values.T @ values)
    if squares[0] > WELL_LEAST * squares[-1]:
        quick: Float = values @ (axes / np.sqrt(squares))
        return quick
    left, length, _ = np.linalg.svd(values, full_matrices=False)
    result: Float = left[:, length > RANK_LEAST * length[0]]
    return result


def leverage(values: Float) -> Float:
    """Return each patient's leverage in [1 values], shape (patients,)."""
    rows = basis(values)
    result: Float = (rows * rows).sum(axis=1)
    return result


def alike(values: Float, *, most: int) -> NDArray[np.bool_]:
    """Return which patients share a value, for columns of at most `most` values, mostly repeated: (patients, groups)."""
    found = [column == level for column in _coded(values, most=most) for level in np.unique(column)]
    return _flags(found, n=len(values))


def above(values: Float, *, most: int) -> NDArray[np.bool_]:
    """Return which patients have a value or a greater one, for the columns that `alike` takes: (patients, groups)."""
    found = [column >= level for column in _coded(values, most=most) for level in np.unique(column)[1:]]
    return _flags(found, n=len(values))


def shown(flags: NDArray[np.bool_], *, rows: Float) -> Float:
    """Return how much of each group's indicator lies in the span of `rows` (a basis), from 0 to 1, shape (groups,).

    1: the columns can be combined to the indicator, so the sums show how many patients are in the group, and their sums.
    """
    one = flags.astype(np.float64)
    inside = rows.T @ one
    count = one.sum(axis=0)
    result: Float = (inside * inside).sum(axis=0) / np.where(count > 0, count, 1.0)
    return result


def concentrated(rows: Float, *, counts: NDArray[np.int64], few: int) -> bool:
    """Say whether some vector in the span of `rows` is zero but for points at which 1 to `few` patients stand together.

    `rows` is an orthonormal basis over points, shape (points, rank); `counts` says how many patients stand at each. True, too,
    where that would take more than CHOICES_MOST choices of points to know.
    """
    small = np.flatnonzero((counts > 0) & (counts <= few))
    small = small[np.argsort(counts[small], kind="stable")]
    squares, axes = np.linalg.eigh(rows[small].T @ rows[small])
    weight = rows[small] @ axes[:, squares > TELLS_LEAST]  # of the vectors that are zero but for all of these points
    small = small[(weight * weight).sum(axis=1) > WEIGHT_LEAST]
    if weight.shape[1] <= 1:
        return 0 < int(counts[small].sum()) <= few
    length = (rows * rows).sum(axis=1)
    for tried, chosen in enumerate(_choices(counts[small].tolist(), few=few)):
        at = small[list(chosen)]
        if tried >= CHOICES_MOST or (length[at].sum() > TELLS_LEAST and np.linalg.norm(rows[at], 2) ** 2 > TELLS_LEAST):
            return True
    return False


def _choices(counts: Sequence[int], *, few: int, start: int = 0) -> Iterator[tuple[int, ...]]:
    """Yield the places, from `start`, of counts whose sum is at most `few`; `counts` rise."""
    for at in range(start, len(counts)):
        if counts[at] > few:
            return
        yield (at,)
        for more in _choices(counts, few=few - counts[at], start=at + 1):
            yield (at, *more)


def apart(values: Float, *, few: int) -> float:
    """Return the largest share that `few` patients hold of a combination of two columns and a constant, over all pairs.

    Near 1: the two are alike but for these patients, in some units. Looked at are the patients farthest from the line of the
    one on the other; 0 where `few` are more than a quarter of all. Pairs that leave each other nothing do not count.
    """
    n = len(values)
    if 4 * few > n:
        return 0.0
    centred = values - values.mean(axis=0)
    size = np.abs(values).max(axis=0, initial=0.0)
    kept = centred[:, np.abs(centred).max(axis=0, initial=0.0) > 8 * np.finfo(np.float64).eps * size]
    unit = kept / np.sqrt((kept * kept).sum(axis=0))
    most, same, found = np.abs(unit).max(axis=0, initial=0.0), unit.T @ unit, 0.0
    for i, j in combinations(range(unit.shape[1]), 2):
        if few * (1 / n + most[i] ** 2 + (most[i] + most[j]) ** 2 / max(1 - same[i, j] ** 2, RANK_LEAST**2)) < FAR_LEAST:
            continue  # nobody is far enough out
        rest = unit[:, j] - same[i, j] * unit[:, i]
        rest -= (rest @ unit[:, i]) * unit[:, i]
        length = float(np.sqrt(rest @ rest))
        if length > RANK_LEAST:
            far = np.argpartition(np.abs(rest), n - few)[n - few :]
            rows = np.column_stack([np.full(few, 1 / np.sqrt(n)), unit[far, i], rest[far] / length])
            found = max(found, float(np.linalg.norm(rows, 2)) ** 2)
    return found


def _coded(values: Float, *, most: int) -> list[Float]:
    most = min(most, len(values) // 2)
    return [column for column in values.T if len(np.unique(column[: HEAD * most])) <= most and len(np.unique(column)) <= most]


def _flags(found: list[NDArray[np.bool_]], *, n: int) -> NDArray[np.bool_]:
    return np.stack(found, axis=1) if found else np.zeros((n, 0), dtype=bool)
