"""The table that kernels read, and the answer that they give: a vector of integers, and the counts that the policy checks."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.errors import BadQuery, DataError
from common.query import centre_half, triangle

BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One hospital's columns: `values` of shape (patients, len(names)), float64, nan where missing; declared bounds.

    Raises DataError when the shapes do not agree, a name is repeated, bounds are not finite and ordered, or a value lies
    outside its bounds: the cohort makes such a value missing, never clipped.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        p = len(self.names)
        if self.values.shape[1:] != (p,) or self.values.dtype != np.float64 or len(set(self.names)) != p:
            raise DataError("The table does not have its columns.", action="Pass float64 rows, one name a column.")
        low, high = np.array(self.lower, dtype=np.float64), np.array(self.upper, dtype=np.float64)
        if low.shape != (p,) or high.shape != (p,) or not bool(np.all(np.isfinite(low) & np.isfinite(high) & (low < high))):
            raise DataError("A column has no declared bounds.", action="Declare finite bounds, lower below upper.")
        if bool(np.any((self.values < low) | (self.values > high))):
            raise DataError(
                "A value is outside its declared bounds.", action="Leave it out: outside is missing, never clipped."
            )

    def complete(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Return the columns `names` of the rows that have a value in all of them, shape (complete, len(names)).

        Raises BadQuery when a column is unknown here.
        """
        if not set(names) <= set(self.names):
            raise BadQuery("A query is refused: a column is unknown here.", action="Name columns of the study only.")
        x = self.values[:, [self.names.index(name) for name in names]]
        return x[~np.isnan(x).any(axis=1)]

    def standardised(self, x: NDArray[np.float64], *, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Return z = (x - centre) / half by the declared bounds of the columns `names`; same shape, |z| <= 1."""
        if not names:
            return x
        grid = [centre_half(self.lower[i], self.upper[i]) for i in map(self.names.index, names)]
        centre, half = np.array(grid).T
        z: NDArray[np.float64] = (x - centre) / half
        return z

    def part(self, keep: NDArray[np.bool_]) -> Self:
        """Return the table of the patients that `keep` marks."""
        return type(self)(names=self.names, values=self.values[keep], lower=self.lower, upper=self.upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a hospital stands in a round: number `at` (from 0) of `of`, of whom `honest` do not work with the coordinator.

    `shows` says that its policy lets its own estimates be seen.
    """

    at: int
    of: int
    honest: int
    shows: bool


ALONE = Seat(at=0, of=1, honest=1, shows=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a hospital would add to the sum, and what its policy decides by.

    `values`: Python integers, shape (dimension(query),). `patients`: complete rows in it. `smallest_cell`: the smallest count
    above zero among the counts, events and groups that the vector shows, or None when it shows none but `patients`.
    `parameters`: coefficients that are fitted from it. `statistic`: its name in the ledger.
    """

    values: NDArray[np.object_]
    patients: int
    smallest_cell: int | None
    parameters: int
    statistic: str


def products(z: NDArray[np.float64], *, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return per row the upper triangle of weights * z z', shape (rows, triangle(p)); elementwise, no BLAS."""
    rows, p = z.shape
    out = np.empty((rows, triangle(p)))
    at = 0
    for i in range(p):
        left = z[:, i] * weights
        for j in range(i, p):
            np.multiply(left, z[:, j], out=out[:, at])
            at += 1
    return out


def linear(z: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return z @ coefficients, added column by column: a row's bits do not depend on the rows beside it."""
    eta = np.zeros(len(z))
    for j, coefficient in enumerate(coefficients.tolist()):
        eta += z[:, j] * coefficient
    return eta


def with_ones(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [1 z]."""
    return np.concatenate([np.ones((len(z), 1)), z], axis=1)


def smallest(counts: NDArray[np.int64]) -> int | None:
    """Return the smallest count above zero; None when all are zero."""
    some = counts[counts > 0]
    return int(some.min()) if some.size else None


def binary(y: NDArray[np.float64], *, name: str) -> NDArray[np.float64]:
    """Return a column of 0 and 1; raises DataError that names it when it holds anything else."""
    if not bool(np.all((y == 0) | (y == 1))):
        raise DataError(f"Column {name} is not 0 or 1.", action="Declare a binary column, or another analysis.")
    return y
