"""Moments become principal components of the correlation or the covariance matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import NotEstimable
from common.moments import Moments

CONFIDENCE = 0.95
Of = Literal["correlation", "covariance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Principal components, the largest first.

    `eigenvalues` (p,) with their intervals, `explained` (p,) their share of the total, `loadings` (p, p): column c holds the
    unit vector of component c, its largest entry positive. `of` says of which matrix.
    """

    names: tuple[str, ...]
    n: int
    of: Of
    eigenvalues: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    explained: NDArray[np.float64]
    loadings: NDArray[np.float64]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        arrays = ("eigenvalues", "ci_low", "ci_high", "explained", "loadings")
        plain = {"names": list(self.names), "n": self.n, "of": self.of}
        return {**plain, **{key: getattr(self, key).tolist() for key in arrays}}


def components(
    moments: Moments, *, names: Sequence[str], of: Literal["correlation", "covariance"] = "correlation"
) -> Principal:
    """Return the principal components of the columns `names`.

    Guarantee: the matrix is formed from exact integers and rounded once, then decomposed in float64: an eigenvalue is right to
    about 1e-15 of the largest one. The intervals are those of a normal population's covariance matrix (Anderson 1963), and
    an approximation for correlations. There are no scores: a score is a patient's value.
    Raises NotEstimable "too few rows" (fewer than 3) or "constant"; ConfigError on an unknown name.
    """
    columns = [moments.index(name) for name in names]
    if moments.n < 3 or len(columns) < 2:
        raise NotEstimable("too few rows", term="components", action="Two columns and three complete patients are needed.")
    for name, i in zip(names, columns, strict=True):
        if moments.cross[i][i] == 0:
            raise NotEstimable("constant", term=name, action="Leave it out: every patient has the same value.")
    entry = _correlation if of == "correlation" else _covariance
    matrix = np.array([[entry(moments, i, j) for j in columns] for i in columns])
    found, vectors = np.linalg.eigh(matrix)
    values, loadings = np.maximum(found[::-1], 0.0), vectors[:, ::-1]
    loadings = loadings * np.sign(loadings[np.argmax(np.abs(loadings), axis=0), np.arange(len(columns))])
    reach = math.exp(float(stats.norm.isf((1 - CONFIDENCE) / 2)) * math.sqrt(2 / (moments.n - 1)))
    made = values, values / reach, values * reach, values / np.trace(matrix), loadings
    for array in made:
        array.setflags(write=False)
    return Principal(
        names=tuple(names),
        n=moments.n,
        of=of,
        eigenvalues=made[0],
        ci_low=made[1],
        ci_high=made[2],
        explained=made[3],
        loadings=made[4],
    )


def _correlation(moments: Moments, i: int, j: int) -> float:
    cross = moments.cross
    size = math.sqrt(Fraction(cross[i][j] ** 2, cross[i][i] * cross[j][j]))
    return math.copysign(size, cross[i][j])


def _covariance(moments: Moments, i: int, j: int) -> float:
    unit = Fraction(2) ** (moments.exponents[i] + moments.exponents[j])
    return float(Fraction(moments.cross[i][j], moments.n * (moments.n - 1)) / unit)
