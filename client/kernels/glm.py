"""Newton sums of logistic, Firth-penalised and proportional-odds models: counts, log-likelihood, score and information."""

import math

import numpy as np
from numpy.typing import NDArray

from client.kernels.rows import BLOCK_ROWS, Answer, Rows, binary, linear, products, smallest, with_ones
from common import fixed_point
from common.errors import DataError
from common.query import Query, dimension, symmetric


def logistic(rows: Rows, query: Query) -> Answer:
    """Return n, events, log-likelihood, score and information of logit P(y=1) = [1 z] coefficients.

    Rounding: 2**-65 a row and entry, the same bits for any partition; each row's float64 terms to a few units in the last
    place.
    """
    y, x = _outcome(rows, query)
    b = query.array("coefficients")
    total = np.zeros(dimension(query), dtype=object)
    for start in range(0, len(y), BLOCK_ROWS):
        yb, xb = y[start : start + BLOCK_ROWS], with_ones(x[start : start + BLOCK_ROWS])
        eta = linear(xb, b)
        probability = _expit(eta)
        residual = np.where(yb == 1, _expit(-eta), -probability)
        likelihood = -np.logaddexp(0.0, np.where(yb == 1, -eta, eta))
        head = np.stack([np.ones_like(yb), yb, likelihood], axis=1)
        weight = probability * _expit(-eta)
        total += fixed_point.total(np.concatenate([head, xb * residual[:, None], products(xb, weights=weight)], axis=1))
    return _answer(total, y=y, parameters=len(b))


def firth(rows: Rows, query: Query) -> Answer:
    """Return n and Firth's score, the sum of z (y - pi + h (1/2 - pi)) with h = w z' inverse z. Source: Firth 1993."""
    y, x = _outcome(rows, query)
    b = query.array("coefficients")
    inverse = symmetric(query.array("inverse"), size=len(b))
    total = np.zeros(dimension(query), dtype=object)
    for start in range(0, len(y), BLOCK_ROWS):
        yb, xb = y[start : start + BLOCK_ROWS], with_ones(x[start : start + BLOCK_ROWS])
        eta = linear(xb, b)
        probability, other = _expit(eta), _expit(-eta)
        leverage = np.zeros(len(yb))
        for j in range(len(b)):
            leverage += linear(xb, inverse[j]) * xb[:, j]
        residual = np.where(yb == 1, other, -probability) + leverage * probability * other * (other - probability) / 2
        total += fixed_point.total(np.concatenate([np.ones((len(yb), 1)), xb * residual[:, None]], axis=1))
    return _answer(total, y=y, parameters=len(b))


def ordinal(rows: Rows, query: Query) -> Answer:
    """Return n, level counts, log-likelihood, score and observed information of logit P(y <= j) = threshold_j - z coefficients.

    Levels are 0, 1, ... to the number of thresholds. Raises DataError on another value. Source: McCullagh 1980.
    """
    columns = rows.complete(query.variables)
    y = columns[:, 0]
    cuts, p = query.array("thresholds"), len(query.predictors)
    if not bool(np.all((y == np.rint(y)) & (y >= 0) & (y <= len(cuts)))):
        raise DataError(
            f"Column {query.responses[0]} holds another level.", action="Code the levels 0, 1, 2, ... without a gap."
        )
    z = rows.standardised(columns[:, 1:], names=query.predictors)
    b = query.array("coefficients") if p else np.zeros(0)
    total = np.zeros(dimension(query), dtype=object)
    for start in range(0, len(y), BLOCK_ROWS):
        total += fixed_point.total(_ordinal_rows(y[start : start + BLOCK_ROWS], z[start : start + BLOCK_ROWS], cuts=cuts, b=b))
    levels = np.bincount(y.astype(np.int64), minlength=len(cuts) + 1)
    return Answer(values=total, patients=len(y), smallest_cell=smallest(levels), parameters=len(cuts) + p, statistic="")


def _ordinal_rows(
    y: NDArray[np.float64], z: NDArray[np.float64], *, cuts: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    level = y.astype(np.int64)
    ends = np.concatenate([[-math.inf], cuts, [math.inf]])
    shift = linear(z, b)
    low, high = ends[level] - shift, ends[level + 1] - shift
    with np.errstate(over="ignore"):
        # F(high) - F(low) = F(high) F(-low) (1 - exp(low - high)), without cancellation
        gap = -np.expm1(low - high)
        f_high, f_low = _expit(high) * _expit(-high), _expit(low) * _expit(-low)
        probability = _expit(high) * _expit(-low) * gap
        likelihood = -np.logaddexp(0.0, -high) - np.logaddexp(0.0, low) + np.log(gap)
    up, down = f_high / probability, f_low / probability  # d log p / d high, -d log p / d low
    s_high, s_low = 1 - 2 * _expit(high), 1 - 2 * _expit(low)
    hh = up * s_high - up * up  # second derivatives of log p
    ll = -down * s_low - down * down
    hl = up * down
    m = len(cuts)
    d_high, d_low = np.zeros((len(y), m + z.shape[1])), np.zeros((len(y), m + z.shape[1]))
    inner_high, inner_low = np.flatnonzero(level < m), np.flatnonzero(level > 0)
    d_high[inner_high, level[inner_high]] = 1.0
    d_low[inner_low, level[inner_low] - 1] = 1.0
    d_high[:, m:] = d_low[:, m:] = -z
    d_high[level == m] = 0.0
    d_low[level == 0] = 0.0
    score = d_high * up[:, None] - d_low * down[:, None]
    q = m + z.shape[1]
    information = np.empty((len(y), q * (q + 1) // 2))
    at = 0
    for i in range(q):
        for j in range(i, q):
            cross = d_high[:, i] * d_low[:, j] + d_low[:, i] * d_high[:, j]
            information[:, at] = -(hh * d_high[:, i] * d_high[:, j] + ll * d_low[:, i] * d_low[:, j] + hl * cross)
            at += 1
    head = np.ones((len(y), 1))
    indicator = (level[:, None] == np.arange(m + 1)).astype(np.float64)
    return np.concatenate([head, indicator, likelihood[:, None], score, information], axis=1)


def _outcome(rows: Rows, query: Query) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    columns = rows.complete(query.variables)
    y = binary(columns[:, 0], name=query.responses[0])
    return y, rows.standardised(columns[:, 1:], names=query.predictors)


def _answer(total: NDArray[np.object_], *, y: NDArray[np.float64], parameters: int) -> Answer:
    events = int(y.sum())
    cell = smallest(np.array([events, len(y) - events]))
    return Answer(values=total, patients=len(y), smallest_cell=cell, parameters=parameters, statistic="")


def _expit(eta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-eta)), to full relative precision in both tails."""
    small = np.exp(-np.abs(eta))
    result: NDArray[np.float64] = np.where(eta >= 0, 1.0, small) / (1.0 + small)
    return result
