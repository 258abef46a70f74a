"""A cohort's variables become columns of terms, from the study's dictionary alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.inside import Cohort
from common import terms
from common.errors import DataError
from common.study import Study


def table(cohort: Cohort, *, columns: Sequence[terms.Column], study: Study) -> NDArray[np.float64]:
    """Return `columns` over the cohort's patients, shape (patients, len(columns)), float64; nan where a value is missing.

    Raises DataError when the cohort lacks a variable.
    """
    needed = dict.fromkeys(piece.variable for column in columns for piece in column.pieces)
    missing = [name for name in needed if name not in cohort.columns]
    if missing:
        raise DataError(f"The cohort has no column {', '.join(missing)}.", action="Make the cohort with this study.")
    raw = {name: cohort.table[:, cohort.columns.index(name)] for name in needed}
    dictionary = {name: study.variable(name) for name in needed}
    made = np.empty((len(cohort.patients), len(columns)))
    for at, column in enumerate(columns):
        made[:, at] = terms.values(column, of=raw.__getitem__, bounds_of=study.declared_bounds, dictionary=dictionary)
    return made


def complete_cases(cohort: Cohort, *, study: Study) -> Cohort:
    """Return the cohort as the study's statistics see it: where they share their patients, an incomplete one lacks every value.

    Raises DataError when the cohort lacks a variable.
    """
    together = study.together()
    if not together:
        return cohort
    seen = cohort.table.copy()
    seen[~complete(table(cohort, columns=together, study=study))] = np.nan
    return replace(cohort, table=seen)


def complete(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows have a value in every column, shape (rows,)."""
    result: NDArray[np.bool_] = np.logical_not(np.isnan(values).any(axis=1))
    return result
