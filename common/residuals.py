"""A hospital's answer about the residuals of a fit: exact integer sums for robust errors and diagnostics, nothing per patient.

The coordinator broadcasts a fit in coordinates that are orthonormal over the pooled rows: q = 1 / sqrt(n) and
(x - mean) / scale times `basis`. The leverage of a row is then |q|**2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import moments, query
from common.errors import DataError, ProtocolError
from common.query import Query, triangle

Float = NDArray[np.float64]

KERNEL = "residuals"
FRACTION_BITS = 40  # of every integer; a number may reach 2**12 times its typical size before it is refused
SCORE_BITS = 62  # of a hospital's score: what the rows of an honest fit can add up to

LEFT_LEAST = 1e-9  # of 1 - leverage; below it float64's rounding decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is broadcast: public numbers of the fit, `p` predictors. `sigma` is the residual standard deviation."""

    outcome: str
    predictors: tuple[str, ...]
    n: int
    mean: Float  # (p,)
    scale: Float  # (p,)
    basis: Float  # (p, p), lower triangular
    slope: Float  # (p,) of the scaled predictors
    outcome_mean: float
    sigma: float

    def query(self) -> Query:
        """Return the query that carries the fit; raises BadQuery when a number is out of range."""
        return query.ask(
            KERNEL,
            responses=[self.outcome],
            predictors=self.predictors,
            numbers={
                "rows": [self.n],
                "mean": self.mean,
                "scale": self.scale,
                "basis": self.basis[np.tril_indices(len(self.predictors))],
                "slope": self.slope,
                "outcome": [self.outcome_mean, self.sigma],
            },
        )


def from_query(asked: Query) -> Fit:
    """Return the fit that a query carries."""
    p = len(asked.predictors)
    basis = np.zeros((p, p))
    basis[np.tril_indices(p)] = asked.array("basis")
    outcome_mean, sigma = asked.array("outcome").tolist()
    return Fit(
        outcome=asked.responses[0],
        predictors=asked.predictors,
        n=int(asked.array("rows")[0]),
        mean=asked.array("mean"),
        scale=asked.array("scale"),
        basis=basis,
        slope=asked.array("slope"),
        outcome_mean=outcome_mean,
        sigma=sigma,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """The opened sums, exact integers, s = residual / sigma, v = q sqrt(n) s / (1 - leverage).

    Over 2**40: `square`, the sum of s**2. Over 2**80: sums of s**3, s**4, of q sqrt(n) s**2 (p,), of v v' (p + 1, p + 1), and
    `scores`, over hospitals, of u u' (p + 1, p + 1), u a hospital's own sum of q sqrt(n) s; zeros where hospitals keep it.
    """

    hospitals: int
    square: int
    cube: int
    fourth: int
    with_square: tuple[int, ...]
    meat: NDArray[np.object_]
    scores: NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the sums are made of, per row: q sqrt(n) (rows, p + 1), s (rows,), 1 - leverage (rows,). Never leaves a hospital."""

    q: Float
    s: Float
    left: Float


def size(p: int) -> int:
    """Return the length of the vector for `p` predictors."""
    return 5 + p + 2 * triangle(p + 1)


def parts(x: Float, y: Float, *, fit: Fit) -> Parts:
    """Return the rows' coordinates, residuals and what leverage leaves; infinite or nan where numbers overflow.

    x (rows, p), y (rows,): complete rows in the units of the dictionary.
    """
    p = len(fit.predictors)
    q = np.empty((len(y), p + 1))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        deviation = (x - fit.mean) / fit.scale
        q[:, 0] = 1.0
        for j in range(p):  # a matrix product's rounding may depend on how many rows there are
            q[:, j + 1] = np.sqrt(fit.n) * _row_sums(deviation * fit.basis[:, j])
        s = (y - fit.outcome_mean - _row_sums(deviation * fit.slope)) / fit.sigma
        left = 1 - _row_sums(q * q) / fit.n
    return Parts(q=q, s=s, left=left)


def answer(x: Float, y: Float, *, fit: Fit, scored: bool) -> NDArray[np.object_]:
    """Return this hospital's integers, shape (size(p),): a one to count it, sums of rows, products of its own score.

    x (rows, p), y (rows,) as `parts`. Each row's numbers are rounded to 40 binary digits, then everything is exact: the sums of
    rows are the same bits for any partition. Without `scored` zeros stand for the products of scores; no rows give zeros.
    Raises DataError when a row alone determines its fit (leverage 1, to nine digits) or a number is beyond 2**12 typical sizes.
    """
    p = len(fit.predictors)
    if len(y) == 0:
        return np.zeros(size(p), dtype=object)
    row = parts(x, y, fit=fit)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        v = row.q * (row.s / row.left)[:, None]
        columns = np.ldexp(np.column_stack([row.q, row.s, row.s * row.s, v])[:, 1:], FRACTION_BITS)
    if not np.all(row.left > LEFT_LEAST) or not np.all(np.abs(columns) < 2.0**moments.BITS):
        raise _too_far()
    z = np.rint(columns).astype(np.int64)
    gram = _square(moments.gram(z).tolist(), side=2 * p + 4)  # of [1, q (p), s, s**2, v (p + 1)]
    s, s2, v0 = p + 1, p + 2, p + 3
    sums = [gram[0][s2], gram[s][s2], gram[s2][s2], *(gram[j][s2] for j in range(1, p + 1))]
    meat = [gram[v0 + i][v0 + j] for i in range(p + 1) for j in range(i, p + 1)]
    ones = np.full((len(z), 1), 1 << FRACTION_BITS, dtype=np.int64)
    score = _score(np.concatenate([ones, z[:, :p]], axis=1), z[:, p]) if scored else [0] * (p + 1)
    if any(abs(value) > 1 << SCORE_BITS for value in score):
        raise _too_far()
    outer = [score[i] * score[j] for i in range(p + 1) for j in range(i, p + 1)]
    return np.array([len(y), 1, *sums, *meat, *outer], dtype=object)


def from_total(total: Sequence[int], *, fit: Fit) -> Sums:
    """Read the opened sum; raises ProtocolError when it is of another length or about other rows than the fit."""
    p = len(fit.predictors)
    if len(total) != size(p) or int(total[0]) != fit.n or not 1 <= int(total[1]) <= fit.n:
        raise ProtocolError(
            "The opened sum is not about the residuals of this fit.", action="Ask again over the rows of the fit."
        )
    _, hospitals, square, cube, fourth, *rest = (int(value) for value in total)
    cut = p + triangle(p + 1)
    return Sums(
        hospitals=hospitals,
        square=square,
        cube=cube,
        fourth=fourth,
        with_square=tuple(rest[:p]),
        meat=_square(rest[p:cut], side=p + 1),
        scores=_square(rest[cut:], side=p + 1),
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


def _too_far() -> DataError:
    return DataError(
        "A patient alone determines the fit, or lies too far from it, for robust errors.",
        action="Take columns that are rarely different from zero out of the model.",
    )
