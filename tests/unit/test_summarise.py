"""A cohort's complete patients become one exact contribution, and hospitals' contributions add up to the pooled Gram."""

from decimal import Decimal

import numpy as np
import pytest

from client import summarise
from client.inside import Cohort
from common import left_out, moments
from common.errors import DataError, ProtocolError
from common.mechanism import Exact
from common.study import Study
from common.variable import Variable
from common.wanted import Regression, Statistics

NAMES = ("volume_mm3", "unused", "age", "grade")
VARIABLES = tuple(Variable(name=n, source="clinical", unit="1", lower=Decimal(0), upper=Decimal(150)) for n in NAMES)
STUDY = Study.model_construct(
    variables=VARIABLES,
    statistics=Statistics(
        correlation=("volume_mm3", "age"), regression=Regression(outcome="grade", predictors=("volume_mm3", "age"))
    ),
)


def cohort(table: np.ndarray, columns: tuple[str, ...] = NAMES) -> Cohort:
    return Cohort(
        patients=tuple(f"p{i:04d}" for i in range(len(table))),
        columns=columns,
        table=np.array(table, dtype=np.float64),
        views=np.zeros((0, 1, 8, 8), dtype=np.float32),
        bags=((),) * len(table),
    )


def some(rows: int) -> np.ndarray:
    table = np.random.default_rng(rows).uniform(0, 150, (rows, 4))
    table[::5, 3] = np.nan
    table[:, 1] = np.nan
    return table


def test_only_patients_complete_in_the_columns_of_the_gram_count() -> None:
    table = some(20)
    assert summarise.complete_rows(cohort(table), study=STUDY).shape == (16, 3)
    assert summarise.summarise(cohort(table), study=STUDY).values[0] == 16


def test_columns_are_taken_by_name_in_the_order_of_the_study() -> None:
    table = some(20)
    turned = cohort(table[:, ::-1], NAMES[::-1])
    assert np.array_equal(summarise.complete_rows(turned, study=STUDY), summarise.complete_rows(cohort(table), study=STUDY))


def test_contribution_is_exact_python_integers_for_the_128_bit_ring() -> None:
    contribution = summarise.summarise(cohort(some(20)), study=STUDY)
    assert contribution.mechanism == Exact(statistic="gram", ring_bits=128)
    assert contribution.values.shape == (moments.size(3),)
    assert {type(v) for v in contribution.values.tolist()} == {int}


def test_sum_over_hospitals_is_the_gram_of_the_pooled_patients() -> None:
    table = some(60)
    parts = [summarise.summarise(cohort(part), study=STUDY).values for part in np.split(table, [7, 8, 40])]
    assert sum(parts[1:], parts[0]).tolist() == summarise.summarise(cohort(table), study=STUDY).values.tolist()


def test_ring_sum_with_wrap_around_gives_the_same_moments() -> None:
    parts = [summarise.summarise(cohort(part), study=STUDY).values for part in np.split(some(60), [7, 40])]
    ring = [sum(int(v) % 2**128 for v in column) % 2**128 for column in zip(*parts, strict=True)]
    signed = [v - 2**128 if v >> 127 else v for v in ring]
    assert moments.from_total(signed, study=STUDY).n == 48
    assert signed == sum(parts[1:], parts[0]).tolist()


def test_no_complete_patient_gives_zeros_of_the_right_length() -> None:
    assert summarise.summarise(cohort(np.full((3, 4), np.nan)), study=STUDY).values.tolist() == [0] * moments.size(3)
    assert summarise.summarise(cohort(np.zeros((0, 4))), study=STUDY).values.tolist() == [0] * moments.size(3)


def test_cohort_of_another_study_is_refused() -> None:
    with pytest.raises(DataError, match="no column grade"):
        summarise.summarise(cohort(some(20)[:, :3], NAMES[:3]), study=STUDY)


def test_value_outside_its_bounds_never_enters() -> None:
    table = some(20)
    table[1, 2] = 150.5
    with pytest.raises(DataError, match="Column age"):
        summarise.summarise(cohort(table), study=STUDY)


def test_the_number_left_out_is_told_beside_the_gram_unless_it_is_a_small_cell() -> None:
    for missing, told in ((0, [0, 0]), (1, [0, 1]), (4, [0, 1]), (5, [5, 0]), (20, [20, 0])):
        table = np.random.default_rng(1).uniform(0, 150, (20, 4))
        table[:missing, 3] = np.nan
        made = summarise.with_left_out(cohort(table), study=STUDY, cell_min=5)
        assert made.values.tolist() == [*summarise.summarise(cohort(table), study=STUDY).values.tolist(), *told]
        assert made.values.shape == (left_out.dimension(3),)


def test_the_opened_sum_tells_who_is_left_out_and_where_it_is_not_told() -> None:
    parts = [
        summarise.with_left_out(cohort(some(rows)), study=STUDY, cell_min=5).values for rows in (60, 20, 7)
    ]  # 12, 4 and 2 left out
    total, without = left_out.split(np.sum(parts, axis=0).tolist())
    assert without.plain() == {"patients": 12, "untold": 2}
    assert moments.from_total(total, study=STUDY).n == 48 + 16 + 5
    for hostile in ([-1, 0], [0, -1], [2**23, 0]):
        with pytest.raises(ProtocolError):
            left_out.split([*total, *hostile])
