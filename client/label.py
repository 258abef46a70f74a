"""The class of each patient: one column of the cohort against the study's threshold."""

import numpy as np
from numpy.typing import NDArray

from client.inside import Cohort
from common.errors import ClinicalTableWrong
from common.study import Study


def labels(cohort: Cohort, *, study: Study) -> NDArray[np.float64]:
    """Return 1.0 (above the study's threshold), 0.0 or nan (missing) per patient, shape (patient,).

    Raises ClinicalTableWrong when the cohort lacks the column.
    """
    if study.training.label not in cohort.columns:
        raise ClinicalTableWrong(f"The column {study.training.label} is missing.", action="Add it to the clinical table.")
    values = cohort.table[:, cohort.columns.index(study.training.label)]
    return np.where(np.isnan(values), np.nan, (values > float(study.training.positive_above)).astype(np.float64))


def labelled_rows(cohort: Cohort, study: Study) -> NDArray[np.int64]:
    """Return the rows of the patients that have a label and at least one view, ascending."""
    viewed = np.fromiter((len(bag) > 0 for bag in cohort.bags), np.bool_, count=len(cohort.bags))
    return np.flatnonzero(viewed & ~np.isnan(labels(cohort, study=study))).astype(np.int64)
