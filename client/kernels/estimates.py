"""A hospital's own least squares, for a meta-analysis: what leaves are weighted sums, or the estimates where its policy allows.

A hospital whose own fit has no answer (too few rows, a constant or aliased column, a perfect fit) adds its number of patients
and zeros: the opened sum then says that some hospital had none, and not which; a refusal would name it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from client.kernels.rows import Answer, Rows, Seat
from common import estimates
from common.estimates import Estimate
from common.query import Query

Float = NDArray[np.float64]

ALIASED: Final = 1e-9  # of a column's length: what the columns before it leave of it, or the fit of the outcome


def weighted(rows: Rows, query: Query) -> Answer:
    """Return the first round's sums; rounded once a hospital, so another partition is another meta-analysis."""
    n, own = _own(rows, query)
    return _answer(estimates.pack(own, n=n, p=len(query.predictors)), n=n, query=query)


def weighted_again(rows: Rows, query: Query) -> Answer:
    """Return the second round's sums, with the variance between hospitals that the query gives for each coefficient."""
    n, own = _own(rows, query)
    return _answer(estimates.pack_again(own, n=n, tau=query.array("tau").tolist()), n=n, query=query)


def shown(rows: Rows, query: Query, seat: Seat) -> Answer:
    """Return this hospital's estimates in its own place, zeros in all others; zeros everywhere where its policy keeps them."""
    n, own = _own(rows, query)
    made = estimates.pack_shown(own if seat.shows else None, at=seat.at, n=n, p=len(query.predictors))
    return _answer(made, n=n, query=query)


def _own(rows: Rows, query: Query) -> tuple[int, list[Estimate] | None]:
    z = rows.standardised(rows.complete(query.variables), names=query.variables)
    return len(z), fit(z[:, 1:], z[:, 0])


def fit(x: Float, y: Float) -> list[Estimate] | None:
    """Return the slopes of y (rows,) on x (rows, p) and an intercept, by QR of centred columns; None without an answer."""
    n, p = x.shape
    df = n - p - 1
    if df < 1:
        return None
    x, y = _centred(x), _centred(y[:, None])[:, 0]
    length, outcome = np.sqrt((x * x).sum(axis=0)), float(np.sqrt(y @ y))
    size = np.sqrt(n) * np.finfo(np.float64).eps * 8
    if not bool(np.all(length > size)) or not outcome > size:
        return None
    q, r = np.linalg.qr(x / length)
    if not bool(np.all(np.abs(np.diag(r)) > ALIASED)):
        return None
    slopes = linalg.solve_triangular(r, q.T @ y)
    error = y - (x / length) @ slopes
    if not float(np.sqrt(error @ error)) > ALIASED * outcome:
        return None
    inverse = linalg.solve_triangular(r, np.eye(p))
    variances = float(error @ error) / df * (inverse * inverse).sum(axis=1)
    return [
        Estimate(value=value, weight=weight)
        for value, weight in zip((slopes / length).tolist(), (length**2 / variances).tolist(), strict=True)
    ]


def _centred(x: Float) -> Float:
    once: Float = x - x.mean(axis=0)
    twice: Float = once - once.mean(axis=0)
    return twice


def _answer(values: list[int], *, n: int, query: Query) -> Answer:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return Answer(values=made, patients=n, smallest_cell=None, parameters=len(query.predictors) + 1, statistic="")
