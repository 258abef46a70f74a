"""What two exact sums over shared variables tell together: of the patients in one of them only, and between two grids.

Subtract them: what is left is a sum over the patients who are in one only, or, of counts on two grids over the same patients, a
count of those between two edges. Each is held to what a sum by itself is held to.
"""

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client import disclosure, released
from client.config import Policy
from client.inside import Cohort, Float, Mask
from client.kernels.histogram import bins_of
from client.released import Released
from client.weights import few
from common.study import Study

SEPARATE = frozenset({"marginals"})  # counts variables one by one; others count them together


def judge(policy: Policy, *, study: Study, cohort: Cohort, whole: Cohort, secret: bytes) -> released.Judge:
    """Return what judges two sums, for client/released.py; it raises TooFewPatients where they may not both be had.

    `cohort` as the sum of now sees it, `whole` as it was measured. Refused: patients in one sum only of whom a shared variable
    is not known here; products of shared variables over them that check_group refuses, or where one sum only counts, small
    cells of two-valued ones; small cells of the grid of all edges, of them, and of all patients where the grids are two.
    """

    @functools.cache
    def tags() -> tuple[str, ...]:
        return tuple(released.tag(patient, secret) for patient in cohort.patients)

    def check(earlier: Released, now: Released, apart: frozenset[str]) -> None:
        if not apart.issubset(tags() if apart else ()):
            raise few("patients of an earlier sum over shared variables are not in the cohort any more")
        names = sorted(earlier.variables & now.variables)
        values = {name: _values(name, cohort=cohort, whole=whole) for name in names}
        grids = {name: (dict(earlier.grids)[name], edges) for name, edges in now.grids if name in dict(earlier.grids)}
        together = not SEPARATE & {earlier.kernel, now.kernel}
        if apart:
            one_only = np.array([tag in apart for tag in tags()], dtype=bool)
            _check_group(policy, study, {name: value[one_only] for name, value in values.items()}, earlier, now)
            _check_cells(policy, values, grids, of=one_only, together=together)
        if any(first != second for first, second in grids.values()):
            held = cohort.table[:, [cohort.columns.index(name) for name in sorted(now.variables)]]
            _check_cells(policy, values, grids, of=np.logical_not(np.isnan(held).any(axis=1)), together=together)

    return check


def _values(name: str, *, cohort: Cohort, whole: Cohort) -> Float:
    """Return a variable of all patients, as it is summed now where it has a value there, else as it was measured."""
    now, measured = (held.table[:, held.columns.index(name)] for held in (cohort, whole))
    return np.where(np.isnan(now), measured, now)


def _check_group(policy: Policy, study: Study, values: Mapping[str, Float], earlier: Released, now: Released) -> None:
    dictionary = study.dictionary()
    made: dict[str, Float] = {}
    for name, value in values.items():
        levels = dictionary[name].levels
        made |= {f"{name}[{level}]": np.where(value == at, 1.0, value * 0) for at, level in enumerate(levels) if at}
        made |= {} if levels else {name: value}
    group = np.column_stack(list(made.values()))
    if np.isnan(group).any():
        raise few("of patients in one of two sums a shared variable is not known")
    if earlier.kernel in disclosure.COUNTS_ONLY or now.kernel in disclosure.COUNTS_ONLY:
        disclosure.check_cells(policy, values=group, names=tuple(made))
    else:
        disclosure.check_group(policy, values=group, names=tuple(made))


def _check_cells(
    policy: Policy,
    values: Mapping[str, Float],
    grids: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
    *,
    of: Mask,
    together: bool,
) -> None:
    bins = [bins_of(values[name][of], edges=_merged(*pair)) for name, pair in grids.items()]
    for cells in [np.stack(bins, axis=1)] if together and bins else [one[:, None] for one in bins]:
        if bool(np.any(np.unique(cells, axis=0, return_counts=True)[1] < policy.cell_min)):
            raise few("between the cells of two sums there is a small one")


def _merged(first: tuple[float, ...], second: tuple[float, ...]) -> NDArray[np.float64]:
    """Return all edges of two grids, rising; the last of each is closed, so the cell ends behind it."""
    ends = [np.nextafter(edges[-1], np.inf) for edges in (first, second)]
    result: NDArray[np.float64] = np.unique(np.array([*first[:-1], *second[:-1], *ends]))
    return result
