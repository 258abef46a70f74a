"""Second moments: of columns, of public ranks, within the hospital, and under a random hospital intercept."""

import math

import numpy as np
from numpy.typing import NDArray

from client.kernels.histogram import bins_of
from client.kernels.rows import BLOCK_ROWS, Answer, Rows, products, with_ones
from common import fixed_point
from common.errors import DataError
from common.query import Query, dimension, triangle


def gram(rows: Rows, query: Query) -> Answer:
    """Return the upper triangle of the Gram of [1 z]: n, sums, products, row by row. Rounding: 2**-65 a row."""
    z = rows.standardised(rows.complete(query.variables), names=query.variables)
    return _answer(_total(z), patients=len(z), parameters=z.shape[1])


def rank_gram(rows: Rows, query: Query) -> Answer:
    """Return the Gram of [1 s], s the public score of each value's bin, over rows complete in every variable.

    Raises DataError when a row lies outside a grid.
    """
    x = rows.complete(query.variables)
    s = np.empty((len(x), len(query.responses)))
    for i in range(s.shape[1]):
        edges, score = query.array(f"grid.{i}"), query.array(f"score.{i}")
        bins = bins_of(x[:, i], edges=edges)
        if bool(np.any((bins < 0) | (bins >= len(score)))):
            raise DataError("A value lies outside the grid.", action="Let the grid cover the declared bounds.")
        s[:, i] = score[bins]
    return _answer(_total(s), patients=len(s), parameters=s.shape[1])


def within(rows: Rows, query: Query) -> Answer:
    """Return what ComBat needs, no hospital's mean among it.

    n; the sums of predictors and responses; then, centred at this hospital's own means: predictors' products, predictors by
    responses, squares of responses. Rounding: 2**-65 a hospital beside float64's own. Source: Frisch, Waugh 1933; Lovell 1963.
    """
    names = query.predictors + query.responses
    z = rows.standardised(rows.complete(query.variables), names=query.variables)
    order = [query.variables.index(name) for name in names]
    z = z[:, order]
    c = len(query.predictors)
    n = len(z)
    if n == 0:
        return _answer(np.zeros(dimension(query), dtype=object), patients=0, parameters=c)
    sums = np.array([math.fsum(column) for column in z.T])
    centred = z - sums / n
    centred -= np.array([math.fsum(column) for column in centred.T]) / n
    upper = [math.fsum(centred[:, i] * centred[:, j]) for i in range(c) for j in range(i, c)]
    cross = [math.fsum(centred[:, i] * centred[:, j]) for i in range(c) for j in range(c, z.shape[1])]
    squares = [math.fsum(centred[:, j] ** 2) for j in range(c, z.shape[1])]
    values = fixed_point.once(np.array([float(n), *sums.tolist(), *upper, *cross, *squares]))
    return _answer(values, patients=n, parameters=c)


def mixed(rows: Rows, query: Query) -> Answer:
    """Return n, one, log(1 + n r), Z'Z - r / (1 + n r) s s', and the derivatives of the last two by the variance ratio r.

    Z = [1 z y] with z and y standardised, s its column sums. The derivatives are n / (1 + n r) and - s s' / (1 + n r)**2.
    As many ratios as there are hospitals reveal each hospital's s s': answer only where the policy allows hospital aggregates.
    """
    names = query.predictors + query.responses
    x = rows.complete(query.variables)
    z = with_ones(rows.standardised(x, names=query.variables)[:, [query.variables.index(name) for name in names]])
    n, ratio, size = len(z), float(query.array("ratio")[0]), z.shape[1]
    if n == 0:
        return _answer(np.zeros(dimension(query), dtype=object), patients=0, parameters=size)
    sums = [math.fsum(column) for column in z.T]
    grown = 1 + n * ratio
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    upper = [math.fsum([*(z[:, i] * z[:, j]).tolist(), -ratio / grown * sums[i] * sums[j]]) for i, j in pairs]
    slope = [-sums[i] * sums[j] / grown**2 for i, j in pairs]
    values = fixed_point.once(np.array([float(n), 1.0, math.log1p(n * ratio), *upper, n / grown, *slope]))
    return _answer(values, patients=n, parameters=size)


def _total(z: NDArray[np.float64]) -> NDArray[np.object_]:
    total = np.zeros(triangle(z.shape[1] + 1), dtype=object)
    for start in range(0, len(z), BLOCK_ROWS):
        block = with_ones(z[start : start + BLOCK_ROWS])
        total += fixed_point.total(products(block, weights=np.ones(len(block))))
    return total


def _answer(values: NDArray[np.object_], *, patients: int, parameters: int) -> Answer:
    return Answer(values=values, patients=patients, smallest_cell=None, parameters=parameters, statistic="")
