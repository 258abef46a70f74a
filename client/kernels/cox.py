"""Cox sums: per public time interval for the pooled model, or a hospital's own partial likelihood for the stratified one."""

import math

import numpy as np
from numpy.typing import NDArray

from client.kernels.histogram import bins_of
from client.kernels.rows import Answer, Rows, binary, linear, products, smallest
from common import efron, fixed_point
from common.errors import BadQuery
from common.query import Query, dimension, triangle

EXPONENT_LARGEST = 27.0  # exp(27) < 2**40, what a row may add


def pooled(rows: Rows, query: Query) -> Answer:
    """Return n, rows outside the grid, then five sums per interval.

    (1, z, zz') exp(z b - offset) of all that leave in it, the same of its deaths, the number of deaths, and their sum of z.

    The coordinator adds the intervals from the end to get the sets at risk. Rounding: 2**-65 a row; same bits for any
    partition.
    """
    time, event, z = _columns(rows, query)
    edges = query.array("grid.0")
    count = len(edges) - 1
    bins = bins_of(time, edges=edges)
    inside = (bins >= 0) & (bins < count)
    b = query.array("coefficients")
    weight = _weights(linear(z, b) - float(query.array("offset")[0]))
    terms = np.concatenate([weight[:, None], z * weight[:, None], products(z, weights=weight)], axis=1)
    died = event == 1
    p = z.shape[1]
    risk, width = 1 + p + triangle(p), dimension(query) - 2
    per = width // count
    total = np.zeros(dimension(query), dtype=object)
    total[0] = len(time) << fixed_point.FRACTION_BITS
    total[1] = int((~inside).sum()) << fixed_point.FRACTION_BITS
    order = np.argsort(bins, kind="stable")
    starts = np.searchsorted(bins[order], np.arange(count + 1))
    for interval in np.unique(bins[inside]).tolist():
        here = order[starts[interval] : starts[interval + 1]]
        dead = here[died[here]]
        at = 2 + interval * per
        total[at : at + risk] = fixed_point.total(terms[here])
        if dead.size:
            total[at + risk : at + 2 * risk] = fixed_point.total(terms[dead])
            total[at + 2 * risk] = dead.size << fixed_point.FRACTION_BITS
            total[at + 2 * risk + 1 : at + per] = fixed_point.total(z[dead])
    left = np.bincount(bins[inside], minlength=count)
    deaths = np.bincount(bins[inside & died], minlength=count)
    cells = np.concatenate([left, deaths, left - deaths, [int((~inside).sum())]])
    return Answer(values=total, patients=len(time), smallest_cell=smallest(cells), parameters=p, statistic="")


def stratified(rows: Rows, query: Query) -> Answer:
    """Return n, events, log-likelihood, score and information of this hospital's own stratum: Efron's ties, exact times.

    Rounding: 2**-65 a hospital beside float64's own. Source: Cox 1972; Efron 1977.
    """
    time, event, z = _columns(rows, query)
    b = query.array("coefficients")
    p = len(b)
    eta = linear(z, b)
    eta -= eta.max(initial=-math.inf) if len(eta) else 0.0  # the stratum's likelihood does not change
    weight = _weights(eta)
    terms = np.concatenate([weight[:, None], z * weight[:, None], products(z, weights=weight)], axis=1)
    order = np.argsort(-time, kind="stable")
    at_risk = np.zeros(terms.shape[1])
    carry = np.zeros(terms.shape[1])
    parts: list[NDArray[np.float64]] = []
    cuts = np.flatnonzero(np.diff(time[order])) + 1
    for here in np.split(order, cuts) if len(order) else []:
        add = terms[here].sum(axis=0)  # a tie is small; the long sum over times is compensated
        fresh = at_risk + add
        carry += np.where(np.abs(at_risk) >= np.abs(add), (at_risk - fresh) + add, (add - fresh) + at_risk)
        at_risk = fresh
        dead = here[event[here] == 1]
        if dead.size:
            parts.append(efron.share(at_risk + carry, terms[dead].sum(axis=0), deaths=dead.size, p=p))
            parts[-1][0] += math.fsum(eta[dead])
            parts[-1][1 : 1 + p] += z[dead].sum(axis=0)
    sums = [math.fsum(column) for column in np.array(parts).T] if parts else [0.0] * (1 + p + triangle(p))
    events = int(event.sum())
    values = fixed_point.once(np.array([float(len(time)), float(events), *sums]))
    cell = smallest(np.array([events, len(time) - events]))
    return Answer(values=values, patients=len(time), smallest_cell=cell, parameters=p, statistic="")


def _columns(rows: Rows, query: Query) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    x = rows.complete(query.variables)
    event = binary(x[:, 1], name=query.responses[1])
    return x[:, 0], event, rows.standardised(x[:, 2:], names=query.predictors)


def _weights(eta: NDArray[np.float64]) -> NDArray[np.float64]:
    if bool(np.any(eta > EXPONENT_LARGEST)):
        raise BadQuery("A query is refused: a hazard ratio is out of range.", action="Check for a separated covariate.")
    weights: NDArray[np.float64] = np.exp(eta)
    return weights
