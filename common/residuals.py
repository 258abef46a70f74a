"""A hospital's answer about the residuals of a fit: exact integer sums for robust errors and diagnostics, nothing per patient.

The coordinator broadcasts a fit in coordinates that are orthonormal over the pooled rows: q = 1 / sqrt(n) and
(x - mean) / scale times `basis`. The leverage of a row is then |q|**2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import moments
from common.errors import DataError, ProtocolError

Float = NDArray[np.float64]

FRACTION_BITS = 40  # of every integer; a number may reach 2**12 times its typical size before it is refused

LEFT_LEAST = 1e-9  # of 1 - leverage; below it float64's rounding decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is broadcast: public numbers of the fit, `p` predictors. `sigma` is the residual standard deviation."""

    outcome: str
    predictors: tuple[str, ...]
    n: int
    mean: Float  # (p,)
    scale: Float  # (p,)
    basis: Float  # (p, p)
    slope: Float  # (p,) of the scaled predictors
    outcome_mean: float
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """The opened sums, exact integers over 2**80: products of [q sqrt(n), s, s**2, v], and of hospitals' scores.

    s = residual / sigma; v = q sqrt(n) s / (1 - leverage). `products` (2 p + 4, 2 p + 4) has the ones in front; `scores`
    (p + 1, p + 1) is the sum over hospitals of u u', u the sum of q sqrt(n) s.
    """

    hospitals: int
    products: NDArray[np.object_]
    scores: NDArray[np.object_]


def size(p: int) -> int:
    """Return the length of the vector for `p` predictors."""
    return moments.size(2 * p + 3) + (p + 1) * (p + 2) // 2 + 1


def answer(x: Float, y: Float, *, fit: Fit) -> NDArray[np.object_]:
    """Return this hospital's integers, shape (size(p),): products of rows, products of its own score, one to count it.

    x (rows, p), y (rows,): complete rows in the units of the dictionary. Each row's numbers are rounded to 40 binary digits,
    then everything is exact: the products are the same bits for any partition of the rows. No rows give zeros.
    Raises DataError when a row alone determines its fit (leverage 1, to nine digits) or a number is beyond 2**12 typical sizes.
    """
    p = len(fit.predictors)
    if len(y) == 0:
        return np.zeros(size(p), dtype=object)
    q = np.empty((len(y), p + 1))
    deviation = (x - fit.mean) / fit.scale
    q[:, 0] = 1.0
    for j in range(p):  # a matrix product's rounding may depend on how many rows there are
        q[:, j + 1] = np.sqrt(fit.n) * _row_sums(deviation * fit.basis[:, j])
    s = (y - fit.outcome_mean - _row_sums(deviation * fit.slope)) / fit.sigma
    left = 1 - _row_sums(q * q) / fit.n
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        v = q * (s / left)[:, None]
    columns = np.ldexp(np.column_stack([q, s, s * s, v])[:, 1:], FRACTION_BITS)
    if not np.all(left > LEFT_LEAST) or not np.all(np.abs(columns) < 2.0**moments.BITS):
        raise DataError(
            "A patient alone determines the fit, or lies too far from it, for robust errors.",
            action="Take columns that are rarely different from zero out of the model.",
        )
    z = np.rint(columns).astype(np.int64)
    ones = np.full((len(z), 1), 1 << FRACTION_BITS, dtype=np.int64)
    score = _score(np.concatenate([ones, z[:, :p]], axis=1), z[:, p])
    outer = [score[i] * score[j] for i in range(p + 1) for j in range(i, p + 1)]
    return np.array([*moments.gram(z).tolist(), *outer, 1], dtype=object)


def from_total(total: Sequence[int], *, fit: Fit) -> Sums:
    """Read the opened sum; raises ProtocolError when it is of another length or about other rows than the fit."""
    p = len(fit.predictors)
    if len(total) != size(p) or int(total[0]) != fit.n or not 1 <= int(total[-1]) <= fit.n:
        raise ProtocolError(
            "The opened sum is not about the residuals of this fit.", action="Ask again over the rows of the fit."
        )
    cut = moments.size(2 * p + 3)
    return Sums(
        hospitals=int(total[-1]),
        products=_square(total[:cut], side=2 * p + 4),
        scores=_square(total[cut:-1], side=p + 1),
    )


def _row_sums(products: Float) -> Float:
    """Add each row from left to right: the same bits whatever other rows there are."""
    total = np.zeros(len(products))
    for j in range(products.shape[1]):
        total += products[:, j]
    return total


def _score(q: NDArray[np.int64], s: NDArray[np.int64]) -> list[int]:
    """Return the sums of q times s, rounded once to 40 binary digits."""
    sums = [sum(a * b for a, b in zip(column, s.tolist(), strict=True)) for column in q.T.tolist()]
    return [(total + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS for total in sums]


def _square(upper: Sequence[int], *, side: int) -> NDArray[np.object_]:
    matrix = np.zeros((side, side), dtype=object)
    matrix[np.triu_indices(side)] = [int(value) for value in upper]
    return np.triu(matrix) + np.triu(matrix, 1).T
