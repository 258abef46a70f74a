"""What stands out of the noise, and what does not: the rule by which a figure becomes "too noisy" instead of a number.

The noise matrix E is symmetric with sd sigma on its diagonal and sigma / sqrt(2) off it: a Gaussian orthogonal ensemble, the
same in every rotation. Its largest eigenvalue is about sigma * sqrt(2 q) for q rows. The closed forms of this folder are first
order in A**-1 E; they hold where that product is small. So the rule, instead of a repair of the matrix: a figure that needs
A**-1 is given only where the smallest eigenvalue of the noisy A is at least MATRIX_LEAST times sigma * sqrt(2 q), and one that
divides by a variance only where that is at least SCALAR_LEAST times the sd of its own noise.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, NotEstimable
from common.noisy_moments import NoisyMoments

Float = NDArray[np.float64]

DIAGNOSIS = "too noisy"
MATRIX_LEAST = 1.0
SCALAR_LEAST = 4.0
ACTION = "Take more patients, a larger epsilon or fewer columns; `motet-coordinator plan` says how many."


def positions(noisy: NoisyMoments, *, names: Sequence[str]) -> list[int]:
    """Return the rows of `names` in the matrix; the intercept is row 0. Raises ConfigError on a name unknown or repeated."""
    places = {name: at for at, name in enumerate(noisy.columns, start=1)}
    if len(set(names)) != len(names) or not set(names) <= set(places):
        raise ConfigError("A name is no column of this Gram, or stands twice.", action="Name columns of the study once each.")
    return [places[name] for name in names]


def patients(noisy: NoisyMoments) -> float:
    """Return the noisy number of patients, a clipped one counting less than 1; raises NotEstimable where it is all noise."""
    n = float(noisy.matrix[0, 0])
    if n < SCALAR_LEAST * noisy.sigma or n < 4:
        raise NotEstimable(DIAGNOSIS, term="number of patients", action=ACTION)
    return n


def inverse(matrix: Float, *, names: Sequence[str], sigma: float) -> Float:
    """Return the inverse of a block of the noisy matrix, rows `names`, where it stands out of the noise.

    Raises NotEstimable "too noisy", with the column that has the largest part in the smallest eigenvector. A column that others
    give, or that does not vary, is among these: under noise nobody can tell.
    """
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < MATRIX_LEAST * sigma * math.sqrt(2 * len(matrix)):
        raise NotEstimable(DIAGNOSIS, term=names[int(np.argmax(np.abs(vectors[:, 0])))], action=ACTION)
    result: Float = (vectors / values) @ vectors.T
    return result
