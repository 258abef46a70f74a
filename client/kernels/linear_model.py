"""Exact sums for linear models: the Gram on the columns' grids, the same within the hospital, and sums over residuals."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.kernels.rows import Answer, Rows, Seat
from common import moments, residuals, within
from common.query import Query

HONEST_LEAST: Final = 3  # below it the hospitals' own scores follow from the sum of their products


def exact_gram(rows: Rows, query: Query) -> Answer:
    """Return the integer Gram of the response, then the predictors, as common/moments.py: the same bits for any partition."""
    z = _on_grids(rows, query)
    return _answer(moments.gram(z), patients=len(z), query=query)


def absorbed(rows: Rows, query: Query) -> Answer:
    """Return the integer scatter about this hospital's own means, as common/within.py: no mean and no sum is in it."""
    z = _on_grids(rows, query)
    return _answer(within.within(z), patients=len(z), query=query)


def residual(rows: Rows, query: Query, seat: Seat) -> Answer:
    """Return the sums over residuals of the fit in the query, as common/residuals.py.

    The products of this hospital's own score are in it only where errors clustered by hospital can be made of them (more
    hospitals than coefficients), and three or more honest hospitals hide one another; else every hospital has zeros there.
    With u_1 .. u_H the honest hospitals' scores, whose sum is known, sum u u' fixes them up to a rotation of H - 1 dimensions:
    with H = 2 up to a sign, from 3 on not at all.
    """
    fit = residuals.from_query(query)
    x = rows.complete(query.variables)
    scored = seat.of > len(fit.predictors) + 1 and seat.honest >= HONEST_LEAST
    return _answer(residuals.answer(x[:, 1:], x[:, 0], fit=fit, scored=scored), patients=len(x), query=query)


def _on_grids(rows: Rows, query: Query) -> NDArray[np.int64]:
    grid = [
        moments.scale(name, bounds=(rows.lower[at], rows.upper[at]))
        for name, at in ((name, rows.names.index(name)) for name in query.variables if name in rows.names)
    ]
    return moments.on_grid(rows.complete(query.variables), names=query.variables, grid=grid)


def _answer(values: NDArray[np.object_], *, patients: int, query: Query) -> Answer:
    parameters = len(query.predictors) + 1
    return Answer(values=values, patients=patients, smallest_cell=None, parameters=parameters, statistic="")
