"""The wide Gram of a study as it left with Gaussian noise, and how a symmetric matrix becomes the vector that gets the noise.

The noise is part of the figure: whoever reads it has to carry `sigma` along. It is not a common.moments.Moments and has none of
its methods, so nothing that takes exact moments takes it.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from common.canonical import decimal_text
from common.errors import NoisyNotExact
from common.mechanism import NoisyGram
from common.query import triangle
from common.study import Study

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyMoments:
    """The noisy sum of v v' over the complete patients, v = (1, z) clipped to `clip_norm`, z = (x - centre) / half.

    `columns`, `centre` and `half` are those of study.design(), in its order. `matrix`: (p + 1, p + 1), float64, symmetric,
    read-only, intercept first; entry (0, 0) is the noisy number of patients, where a clipped patient counts less than one.
    Noise: normal, independent over the upper triangle, sd `sigma` on the diagonal and sigma / sqrt(2) off it; `sigma` is of all
    the noise that is really in the sum, at least what the (epsilon, delta) of this release needs. It may be indefinite.
    Raises ValueError where the parts do not fit one another.
    """

    columns: tuple[str, ...]
    centre: tuple[float, ...]
    half: tuple[float, ...]
    matrix: Float
    sigma: float
    clip_norm: float
    epsilon: str
    delta: str
    hospitals: int

    def __post_init__(self) -> None:
        p, m = len(self.columns), self.matrix
        if len(self.centre) != p or len(self.half) != p or m.shape != (p + 1, p + 1) or m.dtype != np.float64:
            raise ValueError("noisy moments have a centre, a half width and a row of float64 per column")
        if not bool(np.isfinite(m).all()) or not bool((m == m.T).all()):
            raise ValueError("noisy moments are finite and symmetric")
        if not (math.isfinite(self.sigma) and self.sigma > 0 and self.clip_norm > 0 and self.hospitals > 0):
            raise ValueError("noisy moments have noise, a clipping norm and hospitals")
        m.setflags(write=False)

    if not TYPE_CHECKING:  # to mypy it has the attributes above and no others

        def __getattr__(self, name: str) -> NoReturn:
            """Refuse what only exact moments have, whoever asks."""
            raise NoisyNotExact(
                f"Noisy moments have no {name}: an exact analysis would ignore the noise.",
                action="Read them with server/infer/private.",
            )


def from_total(total: Float, *, study: Study, mechanism: NoisyGram, epsilon: str) -> NoisyMoments:
    """Read the noisy moments from an opened sum, shape (packed_size(p),), in grid steps of its mechanism.

    `epsilon` is that of this one release at the study's delta, as decimal text, rounded up. Raises ValueError on another
    length, and where the study has an exact Gram.
    """
    privacy, columns = study.statistics.privacy, study.design()
    if privacy is None or total.shape != (packed_size(len(columns)),):
        raise ValueError("this is not the study's noisy Gram")
    scaling = [box(*study.bounds(column)) for column in columns]
    return NoisyMoments(
        columns=tuple(column.name for column in columns),
        centre=tuple(centre for centre, _ in scaling),
        half=tuple(half for _, half in scaling),
        matrix=unpack(total * mechanism.grid_step),
        sigma=mechanism.noise_deviation,
        clip_norm=float(mechanism.clip_norm),
        epsilon=epsilon,
        delta=decimal_text(privacy.delta),
        hospitals=mechanism.hospitals,
    )


def box(lower: float, upper: float) -> tuple[float, float]:
    """Return the public centre and half width of declared bounds, z = (x - centre) / half; both sides compute the same bits.

    Guarantee: |z| <= 1 for every x within the bounds: float64 subtraction and division are monotone. The half is the box's own,
    not a power of two above it: noise weighs by the fourth power of the spread that z loses.
    """
    centre = lower / 2 + upper / 2
    return centre, max(upper - centre, centre - lower)


def packed_size(p: int) -> int:
    """Return the length of the packed matrix of `p` columns and the intercept."""
    return triangle(p + 1)


def pack(matrix: Float) -> Float:
    """Return the upper triangle row by row, entries off the diagonal times sqrt(2): shape (q,) of (q * (q + 1) / 2,).

    Guarantee: the L2 norm of pack(M) is the Frobenius norm of M; that of pack(v v') is |v|**2.
    Raises ValueError on what is not square.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError("a square matrix is packed")
    rows, columns = np.triu_indices(len(matrix))
    packed: Float = matrix[rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0))
    return packed


def unpack(packed: Float) -> Float:
    """Return the symmetric matrix that was packed, shape (q, q); raises ValueError on a length that no triangle has."""
    size = (math.isqrt(8 * packed.size + 1) - 1) // 2
    if packed.ndim != 1 or size < 1 or size * (size + 1) // 2 != packed.size:
        raise ValueError("this is not the length of a triangle")
    rows, columns = np.triu_indices(size)
    matrix = np.zeros((size, size))
    matrix[rows, columns] = packed / np.where(rows == columns, 1.0, math.sqrt(2.0))
    matrix[columns, rows] = matrix[rows, columns]
    return matrix
