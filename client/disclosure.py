"""The hospital's disclosure policy for exact sums: no small cells, no saturated fits, no sum that one patient dominates.

All counts are this hospital's own, before anything is masked. A refusal is TooFewPatients: what leaves is a code without a
reason, since the reason would be a bit about the data; the reason is in the hospital's own log, without any value.
Source: Hundepool et al. 2012, Statistical Disclosure Control (threshold and dominance rules).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from client import cells, span, weights
from client.config import Policy
from client.kernels.histogram import bins_of
from client.kernels.rows import ALONE, Answer, Rows, Seat, linear
from client.weights import few
from common.errors import OutsidePolicy
from common.query import Query
from common.site_sums import HONEST_LEAST

Float = NDArray[np.float64]

COUNTS_ONLY: Final = frozenset({"table", "marginals", "rank_gram"})
AGGREGATES: Final = frozenset({"mixed"})
CLUSTERS: Final = frozenset({"lloyd", "mixture"})  # the query chooses who is in which
LEVELS_MOST: Final = 16  # a column of no more values is looked at value by value
ALIKE_MOST: Final = 0.999  # of a combination of two columns, at 1 to k - 1 patients: above it the two are alike but for them


def check_columns(policy: Policy, *, values: Float, names: tuple[str, ...]) -> None:
    """Refuse products of columns that would show a small cell or a single patient, in a column or in a combination of columns.

    `values` (patients, columns): complete rows. Nobody in it passes: zeros say nothing. Refused, by name of the column: what
    check_group refuses; a column of whose sum of squared deviations one patient holds more than the policy's share.
    """
    check_group(policy, values=values, names=names)
    squares = (values - values.mean(axis=0)) ** 2 if len(values) else values
    for name, column, square in zip(names, values.T, squares.T, strict=True):
        if len(np.unique(column)) > 2 and _share(square) > float(policy.share_max):
            raise few(f"one patient dominates {name}")


def check_group(policy: Policy, *, values: Float, names: tuple[str, ...]) -> None:
    """Refuse products of columns over all patients, or over a group of them, as check_columns; nobody passes.

    Not more patients than columns and an intercept; a column of two values, or a pair of such, with a cell of 1 to k - 1
    patients; an indicator or its product that is other than zero for 1 to k - 1. Of their combinations: a patient with more
    leverage than `leverage_most`; 1 to k - 1 patients of one value, of a column of few values, whose indicator lies in the span
    to that share; cells of 1 to k - 1 between groups whose indicators lie in it wholly. Two columns that are alike but for 1 to
    k - 1 patients; products that count so few by the values of one or two variables, or that are more than there are values.
    """
    n, p = values.shape
    if n == 0:
        return
    if n <= p + 1:
        raise few("there are not more patients than columns")
    told, behind = cells.numbers(values, names=names)
    if told > behind:
        raise few("there are more sums of products than values behind them")
    check_cells(policy, values=values, names=names)
    for name, column in zip(names, values.T, strict=True):
        if "[" in name and 0 < int(np.count_nonzero(column)) < policy.cell_min:
            raise few(f"{name} is other than zero for too few")
    alike, rows = check_span(policy, values=values)
    flags = np.concatenate([alike, span.above(values, most=LEVELS_MOST)], axis=1)
    wholly = span.shown(flags, rows=rows) > span.TELLS_LEAST
    _cells([("a group", flag) for flag in flags[:, wholly].T], k=policy.cell_min)
    check_alike(policy, values=values)
    check_counts(policy, values=values, names=names)


def check_alike(policy: Policy, *, values: Float) -> None:
    """Refuse two columns, of one sum or of two, that are alike but for 1 to k - 1 patients: their difference is those."""
    if span.apart(values, few=1) > leverage_most(policy) or span.apart(values, few=policy.cell_min - 1) > ALIKE_MOST:
        raise few("two columns are alike but for a few patients")


def check_counts(policy: Policy, *, values: Float, names: tuple[str, ...], powers: int = cells.PRODUCTS) -> None:
    """Refuse products of columns whose sums count 1 to k - 1 patients by the values of one or two variables."""
    if cells.tell_few(values, names=names, few=policy.cell_min - 1, powers=powers):
        raise few("sums of products count a few patients by their values")


def check_span(policy: Policy, *, values: Float) -> tuple[NDArray[np.bool_], Float]:
    """Refuse columns of which a combination is nearly a patient's, or the indicator of 1 to k - 1 with one value of a column.

    Returns which patients share a value (span.alike) and the columns' basis.
    """
    rows, most = span.basis(values), leverage_most(policy)
    if bool(np.any((rows * rows).sum(axis=1) > most)):
        raise few("a combination of the columns is nearly zero but for one patient")
    alike = span.alike(values, most=LEVELS_MOST)
    if bool(np.any((alike.sum(axis=0) < policy.cell_min) & (span.shown(alike, rows=rows) > most))):
        raise few("a combination of the columns shows a small group")
    return alike, rows


def check_cells(policy: Policy, *, values: Float, names: tuple[str, ...]) -> None:
    """Refuse a column of two values, or a pair of such, with a cell of 1 to k - 1 patients."""
    two = [(name, np.unique(column)) for name, column in zip(names, values.T, strict=True)]
    _cells([(name, values[:, at] == found[0]) for at, (name, found) in enumerate(two) if len(found) <= 2], k=policy.cell_min)


def leverage_most(policy: Policy) -> float:
    """Return the most leverage that one patient may have: the others keep at least 1 - share_max of any direction's length.

    A direction of length 1 is of length sqrt(1 - leverage) without the patient; 0.84 for a share of 0.6.
    """
    return 1 - (1 - float(policy.share_max)) ** 2


def check_query(policy: Policy, *, asked: Query, rows: Rows, seat: Seat = ALONE) -> None:
    """Refuse a query whose sums would show one patient of `rows`, before it is answered.

    Rows are those complete in every column of the analysis. Beside the rules of check_columns, and those of check_group for
    every group whose products it shows: weights that a query gives to patients (client/weights.py) of which one patient holds
    more than the policy's share, or fewer than k most; a combination of them and the columns of which one holds more than
    `leverage_most`; numbers that choose patients by themselves; components of a mixture with fewer than k patients, more than
    none; where the policy does not allow it, clusters, a kernel that shows hospitals' own aggregates, or one whose sums so few
    honest hospitals cannot hide (`seat`).
    """
    _check_allowed(policy, asked, seat)
    if asked.kernel not in COUNTS_ONLY:
        check_columns(policy, values=rows.values, names=rows.names)
    if asked.kernel == "residuals":
        check_counts(policy, values=rows.values, names=rows.names, powers=cells.POWERS)
    if asked.kernel in {"cox", "ordinal"} and asked.predictors:
        _check_groups(policy, asked, rows)
    found = weights.of(asked, rows, share_max=float(policy.share_max))
    if any(_share(single) > float(policy.share_max) for single in (*found.single, *found.chosen)):
        raise few("one patient dominates the weights of a query")
    if any(0 < _many(chosen) < policy.cell_min for chosen in found.chosen):
        raise few("a few patients hold the weights of a query")
    for columns in found.spans:
        if bool(np.any(span.leverage(columns) > leverage_most(policy))):
            raise few("a combination of the weights of a query is nearly zero but for one patient")
    if any(bool(np.any(counts < policy.cell_min)) for counts in found.counts):
        raise few("a sum of scores tells a small cell")
    if any(0 < total < policy.cell_min for total in found.sums):
        raise few("a component has too few patients")


def check_answer(policy: Policy, *, answer: Answer) -> None:
    """Refuse an answer that counts 1 to k - 1 patients anywhere, or is about a fit with too many coefficients."""
    if answer.smallest_cell is not None and answer.smallest_cell < policy.cell_min:
        raise few("a cell, a group or a number of events is too small")
    if answer.patients and answer.parameters > float(policy.parameters_share_max) * answer.patients:
        raise few("a fit has too many coefficients")


def _cells(binary: list[tuple[str, NDArray[np.bool_]]], *, k: int) -> None:
    """Check every cell of every pair of two-valued columns, a column with itself included."""
    if not binary:
        return
    flags = np.stack([flag for _, flag in binary], axis=1).astype(np.int64)
    both, one, n = flags.T @ flags, flags.sum(axis=0), len(flags)
    cells = [both, one[:, None] - both, one[None, :] - both, n - one[:, None] - one[None, :] + both]
    small = np.any([(cell > 0) & (cell < k) for cell in cells], axis=0)
    if small.any():
        i, j = np.argwhere(small)[0]
        raise few(f"{binary[int(i)][0]} with {binary[int(j)][0]} has a small cell")


def _check_allowed(policy: Policy, asked: Query, seat: Seat) -> None:
    """Refuse kernels that this hospital does not answer at all, or not beside so few honest hospitals."""
    if asked.kernel in CLUSTERS and not policy.cluster_sums:
        raise OutsidePolicy("Two sums of clusters can differ by one patient.", action="Set cluster_sums in site.toml, or not.")
    if asked.kernel in AGGREGATES and not policy.site_aggregates:
        raise OutsidePolicy("The analysis shows this hospital's own sums.", action="Set site_aggregates in site.toml, or not.")
    if seat.honest < HONEST_LEAST.get(asked.kernel, 0) and not policy.site_aggregates:
        raise OutsidePolicy("Too few hospitals hide this one's own sums.", action="Set site_aggregates in site.toml, or not.")


def _check_groups(policy: Policy, asked: Query, rows: Rows) -> None:
    """Check the covariates of each group whose own products a query shows: levels, or who leaves in an interval.

    Of a Cox model on intervals: its deaths, its censored, and those outside the grid, who are the difference from the Gram.
    """
    x = rows.complete(asked.variables)
    z = x[:, len(asked.responses) :]
    if asked.kernel == "ordinal":
        group = x[:, 0]
    else:
        edges = asked.array("grid.0")
        bins = bins_of(x[:, 0], edges=edges)
        inside = (bins >= 0) & (bins < len(edges) - 1)
        group = np.where(inside, 2.0 * bins + (x[:, 1] == 1), -1.0)
        _check_hazards(policy, asked, rows, group=group)
    for one in np.unique(group):
        check_group(policy, values=z[group == one], names=asked.predictors)


def _check_hazards(policy: Policy, asked: Query, rows: Rows, *, group: Float) -> None:
    """No patient dominates the hazards of an interval's deaths or censored."""
    z = rows.standardised(rows.complete(asked.variables)[:, 2:], names=asked.predictors)
    eta = linear(z, asked.array("coefficients"))
    for one in np.unique(group[group >= 0]):
        if _share(np.exp(eta[group == one] - eta[group == one].max())) > leverage_most(policy):
            raise few("one patient dominates the hazards of an interval")


def _many(weights: Float) -> float:
    """Return as how many equal ones weights count, (sum w)^2 / sum w^2; none where all are zero. Source: Kish 1965."""
    top = float(weights.max())
    parts = weights / top if top > 0 else weights
    return float(parts.sum()) ** 2 / float((parts * parts).sum()) if top > 0 else 0.0


def _share(parts: Float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        whole = float(parts.sum())
    return float(parts.max()) / whole if whole > 0 else 0.0
