"""What the network learns of each patient: one column of the cohort, as the study's head takes it."""

import numpy as np
from numpy.typing import NDArray

from client.inside import Cohort
from common.errors import ClinicalTableWrong
from common.study import Study


def labels(cohort: Cohort, *, study: Study) -> NDArray[np.float64]:
    """Return the target of each patient, shape (patient,), nan where the label is missing.

    binary: 1.0 above the study's threshold, 0.0 else; classes and ordinal: the number of the class, from 0; regression: the
    value, scaled by its declared bounds to [0, 1]. Raises ClinicalTableWrong when the cohort lacks the column.
    """
    training = study.training
    if training.label not in cohort.columns:
        raise ClinicalTableWrong(f"The column {training.label} is missing.", action="Add it to the clinical table.")
    values = cohort.table[:, cohort.columns.index(training.label)]
    if training.head == "regression":
        lower, upper = study.declared_bounds(training.label)
        return np.asarray((values - lower) / (upper - lower))
    if training.head != "binary" and not training.thresholds:
        return values.copy()  # the position of a level
    above = training.thresholds if training.positive_above is None else (training.positive_above,)
    passed = (values[:, None] > np.array([float(one) for one in above])).sum(axis=1)
    return np.where(np.isnan(values), np.nan, passed.astype(np.float64))


def labelled_rows(cohort: Cohort, *, study: Study) -> NDArray[np.int64]:
    """Return the rows of the patients that have a label and at least one view, ascending."""
    viewed = np.fromiter((len(bag) > 0 for bag in cohort.bags), np.bool_, count=len(cohort.bags))
    return np.flatnonzero(viewed & ~np.isnan(labels(cohort, study=study))).astype(np.int64)
