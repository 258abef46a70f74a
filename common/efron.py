"""One tie of a Cox model by Efron's rule: what the sets at risk take from log-likelihood, score and information."""

import math

import numpy as np
from numpy.typing import NDArray

from common.query import triangle


def share(risk: NDArray[np.float64], dead: NDArray[np.float64], *, deaths: int, p: int) -> NDArray[np.float64]:
    """Return (log-likelihood, score, information) of one tie without the deaths' own terms, shape (1 + p + triangle(p),).

    `risk` and `dead` are the sums of (1, z, upper triangle of zz') exp(z b) over the rows at risk and over the rows that die.
    Source: Efron 1977: the l-th of m deaths sees the set at risk less l/m of the dying.
    """
    out = np.zeros(1 + p + triangle(p))
    rows, columns = np.triu_indices(p)
    for step in range(deaths):
        a = risk - step / deaths * dead
        mean = a[1 : 1 + p] / a[0]
        out[0] -= math.log(a[0])
        out[1 : 1 + p] -= mean
        out[1 + p :] += a[1 + p :] / a[0] - mean[rows] * mean[columns]
    return out
