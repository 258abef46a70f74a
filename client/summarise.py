"""A cohort becomes the contribution to the study's one wide Gram, exact or to be noised: sums only, nothing per patient."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client import columns
from client.inside import Cohort
from common import left_out, moments, noisy_moments
from common.contribution import Contribution
from common.errors import OutsidePolicy, TooManyPatients
from common.mechanism import Exact, NoisyGram
from common.study import Study

STATISTIC = "gram"
RING_BITS = 128
UNIT_BITS = 52  # a clipped row is a multiple of 2**-52
BELOW = 1 - 2.0**-40  # rows are clipped to a little less, so that their rounding cannot pass the clipping norm


def complete_rows(cohort: Cohort, *, study: Study) -> NDArray[np.int64]:
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
        values=moments.gram(complete_rows(cohort, study=study)),
        mechanism=Exact(statistic=STATISTIC, ring_bits=RING_BITS),
    )


def with_left_out(cohort: Cohort, *, study: Study, cell_min: int) -> Contribution:
    """Return the exact Gram as it travels: beside it, how many patients it leaves out (common/left_out.py).

    Values: shape (left_out.dimension(p),), Python integers.
    """
    made = summarise(cohort, study=study)
    beside = left_out.entries(len(cohort.patients) - int(made.values[0]), cell_min=cell_min)
    return replace(made, values=np.array([*made.values.tolist(), *beside], dtype=object))


def clipped_rows(table: NDArray[np.float64], *, study: Study, clip_norm: float) -> NDArray[np.int64]:
    """Return 2**52 times each row v = (1, z), clipped, as integers of shape (patients, p + 1).

    `table` holds complete rows within their declared bounds, (patients, p). Guarantee: in exact arithmetic, the sum of squares
    of a row of the result is at most (2**52 * clip_norm)**2, for any row: the float64 norm of up to 513 entries is right to
    2**-43 of itself, the rounding to integers adds at most 513**0.5 / 2**53, and rows are clipped to (1 - 2**-40) * clip_norm,
    which is at least about 1. Every row is clipped by itself: its bits do not depend on the rows beside it.
    """
    centre, half = np.array([noisy_moments.box(*study.bounds(column)) for column in study.design()]).T
    v = np.concatenate([np.ones((len(table), 1)), (table - centre) / half], axis=1)
    squares = np.zeros(len(v))
    for column in v.T:
        squares += column * column
    v *= np.minimum(1.0, clip_norm * BELOW / np.sqrt(squares))[:, None]
    integers: NDArray[np.int64] = np.rint(np.ldexp(v, UNIT_BITS)).astype(np.int64)
    return integers


def summarise_privately(cohort: Cohort, *, study: Study, mechanism: NoisyGram) -> Contribution:
    """Return the packed sum of v v' over the complete patients, v clipped; the mask rounds it and adds the noise.

    Values: shape (noisy_moments.packed_size(p),), float64. Guarantee: adding or removing one patient moves them by at most
    clip_norm**2 * (1 + numerical slack) in L2: the Gram of the clipped integers is exact, whatever the patients beside.
    No complete patient gives zeros, which leave with noise like any sum.
    Raises OutsidePolicy when the mechanism is not the study's, TooManyPatients above its patients_max, DataError when the
    cohort lacks a variable.
    """
    privacy = study.statistics.privacy
    size = moments.size(len(study.columns()))
    if privacy is None or mechanism.dimension != size:
        raise OutsidePolicy("The Gram's mechanism is not the study's.", action="Announce the round with the study's values.")
    if (mechanism.noise_multiplier, mechanism.clip_norm) != (privacy.noise_multiplier, privacy.clip_norm):
        raise OutsidePolicy("The Gram's mechanism is not the study's.", action="Announce the round with the study's values.")
    table = columns.table(cohort, columns=study.design(), study=study)
    table = table[columns.complete(table)]
    if len(table) > privacy.patients_max:
        raise TooManyPatients(
            "This hospital has more complete patients than the study allows.",
            action="Ask for a new version of the study with a larger patients_max.",
        )
    rows = clipped_rows(table, study=study, clip_norm=float(privacy.clip_norm))
    width = rows.shape[1]
    upper = moments.gram(rows)[width + 1 :]  # without the row of ones that it puts before the columns
    scaled = np.array([int(value) / (1 << 2 * UNIT_BITS) for value in upper], dtype=np.float64)
    first, second = np.triu_indices(width)
    return Contribution(values=scaled * np.where(first == second, 1.0, math.sqrt(2.0)), mechanism=mechanism)
