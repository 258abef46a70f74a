"""Counts on public grids: a cross table of columns, or their marginal histograms over the same complete rows."""

import numpy as np
from numpy.typing import NDArray

from client.kernels.rows import Answer, Rows, smallest
from common.fixed_point import FRACTION_BITS
from common.query import Query, dimension


def table(rows: Rows, query: Query) -> Answer:
    """Return the counts of the cross table, first response slowest, then how many complete rows lie outside a grid. Exact."""
    bins, inside = _bins(rows, query)
    shape = [query.length(f"grid.{i}") - 1 for i in range(len(query.responses))]
    flat = np.ravel_multi_index(tuple(bins[inside].T), shape)
    counts = np.bincount(flat, minlength=dimension(query) - 1)
    return _answer(counts, outside=int((~inside).sum()))


def marginals(rows: Rows, query: Query) -> Answer:
    """Return each response's histogram over the same complete rows, one after another, then the rows outside a grid. Exact."""
    bins, inside = _bins(rows, query)
    parts = [np.bincount(bins[inside, i], minlength=query.length(f"grid.{i}") - 1) for i in range(len(query.responses))]
    return _answer(np.concatenate(parts), outside=int((~inside).sum()), every=len(parts))


def bins_of(x: NDArray[np.float64], *, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each value: edges[b] <= x < edges[b + 1], the last bin closed; -1 or the number of bins outside."""
    bins = np.searchsorted(edges, x, side="right") - 1
    bins[x == edges[-1]] = len(edges) - 2
    return bins.astype(np.int64)


def _bins(rows: Rows, query: Query) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    x = rows.complete(query.variables)[:, : len(query.responses)]
    bins = np.stack([bins_of(x[:, i], edges=query.array(f"grid.{i}")) for i in range(x.shape[1])], axis=1)
    counts = np.array([query.length(f"grid.{i}") - 1 for i in range(x.shape[1])])
    inside: NDArray[np.bool_] = np.all((bins >= 0) & (bins < counts), axis=1)
    return bins, inside


def _answer(counts: NDArray[np.int64], *, outside: int, every: int = 1) -> Answer:
    values = np.array([int(count) << FRACTION_BITS for count in (*counts.tolist(), outside)], dtype=object)
    patients = int(counts.sum()) // every + outside
    cells = np.append(counts, outside)
    return Answer(values=values, patients=patients, smallest_cell=smallest(cells), parameters=0, statistic="")
