"""One round of k-means or of a diagonal Gaussian mixture: sums per cluster, no label of any row."""

import math

import numpy as np
from numpy.typing import NDArray

from client.kernels.rows import BLOCK_ROWS, Answer, Rows, smallest
from common import fixed_point
from common.errors import BadQuery
from common.query import COEFFICIENT_LARGEST, Query, dimension


def lloyd(rows: Rows, query: Query) -> Answer:
    """Return per cluster: rows, sums, squared distance to its centre; then the sum of simplified silhouettes.

    A row belongs to the nearest of `centres` in units of `scale`, the first where two are equally near. Its simplified
    silhouette is 1 - a / b, a and b the distances to the nearest and the next centre. Source: Lloyd 1982; Hruschka et al. 2004.
    """
    z = _scaled(rows, query)
    p = z.shape[1]
    centres = query.array("centres").reshape(-1, p)
    k = len(centres)
    total = np.zeros(dimension(query), dtype=object)
    members = np.zeros(k, dtype=np.int64)
    for start in range(0, len(z), BLOCK_ROWS):
        block = z[start : start + BLOCK_ROWS]
        distance = _square_distances(block, centres)
        nearest = distance.argmin(axis=1)
        near = distance[np.arange(len(block)), nearest]
        distance[np.arange(len(block)), nearest] = math.inf
        other = distance.min(axis=1) if k > 1 else np.full(len(block), math.inf)
        silhouette = (
            np.where(other > 0, 1 - np.sqrt(near / np.where(other > 0, other, 1.0)), 0.0) if k > 1 else np.zeros(len(block))
        )
        row = np.concatenate([np.ones((len(block), 1)), block, near[:, None]], axis=1)
        for cluster in range(k):
            here = nearest == cluster
            total[cluster * (p + 2) : (cluster + 1) * (p + 2)] += fixed_point.total(row[here])
            members[cluster] += int(here.sum())
        total[-1:] += fixed_point.total(silhouette[:, None])
    return Answer(values=total, patients=len(z), smallest_cell=smallest(members), parameters=k * p, statistic="")


def mixture(rows: Rows, query: Query) -> Answer:
    """Return n, log-likelihood, then per component: sum of responsibilities r, sums of r z, sums of r z**2.

    Source: Dempster, Laird, Rubin 1977, for diagonal Gaussians.
    """
    z = _scaled(rows, query)
    k, p = query.length("weights"), z.shape[1]
    total = np.zeros(dimension(query), dtype=object)
    hard = np.zeros(k, dtype=np.int64)
    for start in range(0, len(z), BLOCK_ROWS):
        block = z[start : start + BLOCK_ROWS]
        density = _densities(block, query)
        r, likelihood = _shared(density)
        parts = [np.ones(len(block)), likelihood]
        for c in range(k):
            parts += [r[:, c], *(r[:, c] * block[:, j] for j in range(p)), *(r[:, c] * block[:, j] ** 2 for j in range(p))]
        total += fixed_point.total(np.stack(parts, axis=1))
        hard += np.bincount(density.argmax(axis=1), minlength=k)
    return Answer(values=total, patients=len(z), smallest_cell=smallest(hard), parameters=2 * k * p, statistic="")


def responsibilities(rows: Rows, query: Query) -> NDArray[np.float64]:
    """Return every patient's share in each component of a mixture, shape (patients, components)."""
    return _shared(_densities(_scaled(rows, query), query))[0]


def _densities(z: NDArray[np.float64], query: Query) -> NDArray[np.float64]:
    """Return log(weight density), shape (rows, components)."""
    p = z.shape[1]
    weights, means = query.array("weights"), query.array("means").reshape(-1, p)
    variances = query.array("variances").reshape(-1, p)
    density = np.empty((len(z), len(weights)))
    for c in range(len(weights)):
        density[:, c] = math.log(weights[c])
        for j in range(p):
            density[:, c] -= 0.5 * ((z[:, j] - means[c, j]) ** 2 / variances[c, j] + math.log(2 * math.pi * variances[c, j]))
    return density


def _shared(density: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return responsibilities (rows, components) and log-likelihoods (rows,)."""
    top = density.max(axis=1)
    shares = np.exp(density - top[:, None])
    norm = np.zeros(len(density))
    for c in range(density.shape[1]):
        norm += shares[:, c]
    return shares / norm[:, None], top + np.log(norm)


def _scaled(rows: Rows, query: Query) -> NDArray[np.float64]:
    off, scale = rows.complete(query.variables) - query.array("centre"), query.array("scale")
    if not bool(np.all(np.abs(off) <= COEFFICIENT_LARGEST * scale)):
        raise BadQuery("A query is refused: a scale is too small for its column.", action="Scale by the pooled deviation.")
    z: NDArray[np.float64] = off / scale
    return z


def _square_distances(z: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    distance = np.zeros((len(z), len(centres)))
    for c, centre in enumerate(centres.tolist()):
        for j, at in enumerate(centre):
            distance[:, c] += (z[:, j] - at) ** 2
    return distance
