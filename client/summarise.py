"""A cohort becomes the contribution to the study's one wide Gram: exact integers, nothing hidden, nothing per patient."""

import numpy as np
from numpy.typing import NDArray

from client import columns
from client.inside import Cohort
from common import moments
from common.contribution import Contribution
from common.mechanism import Exact
from common.study import Study

STATISTIC = "gram"
RING_BITS = 128


def complete_rows(cohort: Cohort, study: Study) -> NDArray[np.int64]:
    """Return the patients who have a value in every column of the study's Gram, on its integer grid.

    Shape (patients, len(study.columns())), int64, in the cohort's order. No complete patient gives no rows. Columns of terms
    (indicators of levels, transformations, products) are made here, from the study's dictionary alone.
    Raises DataError when the cohort lacks a variable, or holds a value outside its declared bounds.
    """
    table = columns.table(cohort, columns=study.design(), study=study)
    return moments.fixed_point(table[columns.complete(table)], study=study)


def summarise(cohort: Cohort, *, study: Study) -> Contribution:
    """Return the exact integer Gram of the complete patients.

    Values: shape (moments.size(p),), Python integers; entry 0 is the number of patients in it.
    Guarantee: the ring sum over hospitals is, bit for bit, the Gram of the pooled patients. Epsilon is infinite: the hospital's
    policy decides whether it leaves.
    """
    return Contribution(
        values=moments.gram(complete_rows(cohort, study)),
        mechanism=Exact(statistic=STATISTIC, ring_bits=RING_BITS),
    )
