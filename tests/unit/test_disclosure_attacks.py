"""Attacks on exact sums that a review found, each as it was made: the hospital refuses it, and answers the honest question."""

from decimal import Decimal

import numpy as np
import pytest

from client import disclosure, span
from client.config import CELL_MIN, PARAMETERS_SHARE_MAX, SHARE_MAX, Policy
from client.kernels.answer import answer
from client.kernels.rows import Rows
from common import query
from common.errors import TooFewPatients
from common.query import Query, ask
from tests import cohorts

POLICY = Policy(
    epsilon_cap=Decimal(1), delta_cap=Decimal("1e-5"), hospitals_min=3, colluders_min=0, patients_min=5,
    exact_releases_max=9, cell_min=CELL_MIN, parameters_share_max=PARAMETERS_SHARE_MAX, share_max=SHARE_MAX,
    site_aggregates=False, allowed_studies=(),
)  # fmt: skip
BOUNDS = {one["name"]: (float(one.get("lower", 0)), float(one.get("upper", 1))) for one in cohorts.VARIABLES}
TIMES = tuple(np.linspace(0, 64, 9).tolist())


def rows_of(*names: str, table: np.ndarray | None = None) -> Rows:
    """One hospital's columns; `sex` stands for sex[m]."""
    table = cohorts.table() if table is None else table
    return Rows(
        names=tuple(name + "[m]" * (name == "sex") for name in names),
        values=np.column_stack([table[:, cohorts.NAMES.index(name)] for name in names]),
        lower=tuple(BOUNDS[name][0] for name in names),
        upper=tuple(BOUNDS[name][1] for name in names),
    )


def answered(rows: Rows, asked: Query) -> None:
    """As the vault does: policy, answer, policy."""
    disclosure.check_query(POLICY, asked=query.parse(asked.bytes()), rows=rows)
    disclosure.check_answer(POLICY, answer=answer(rows, query=asked))


def refused(rows: Rows, asked: Query) -> None:
    with pytest.raises(TooFewPatients):
        answered(rows, asked)


def cox(*coefficients: float, grid: tuple[float, ...] = TIMES, x: tuple[str, ...] = ("x1", "sex[m]")) -> Query:
    numbers = {"coefficients": coefficients, "offset": [0.0], "grid.0": grid}
    return ask("cox", responses=["time", "dead"], predictors=x, numbers=numbers)


def test_the_only_man_of_an_interval_is_not_in_the_sums_of_a_cox_model():
    table = cohorts.table()
    table[:, 6] = np.arange(len(table)) // 32 % 2  # both sexes in every interval's deaths
    here = np.flatnonzero(np.floor(table[:, 4] / 8) == 2)
    rows = rows_of("time", "dead", "x1", "sex", table=table)
    wide = TIMES[::4]
    answered(rows, cox(0, 0, grid=wide))
    answered(rows, cox(0.3, -0.2, grid=wide))
    table[here, 6] = 0
    table[here[3], 6] = 1
    refused(rows_of("time", "dead", "x1", "sex", table=table), cox(0, 0))


def test_deaths_that_are_not_more_than_covariates_are_not_in_the_sums_of_a_cox_model():
    table = cohorts.table()
    here = np.flatnonzero(np.floor(table[:, 4] / 8) == 2)
    table[here, 5] = 0
    table[here[:CELL_MIN], 5] = 1
    names = ("x1", "x2", "score", "malignancy")
    rows = rows_of("time", "dead", *names, table=table)
    refused(rows, cox(0, 0, 0, 0, x=names))
    answered(rows, cox(0, x=("x1",)))


def test_the_only_man_of_a_grade_is_not_in_the_sums_of_proportional_odds():
    table = cohorts.table()
    table[:, 7] = np.arange(len(table)) % 4
    fit = {"thresholds": [-1.0, 0.0, 1.0], "coefficients": [0.0, 0.0]}
    asked = ask("ordinal", responses=["malignancy"], predictors=["x1", "sex[m]"], numbers=fit)
    answered(rows_of("malignancy", "x1", "sex", table=table), asked)
    table[table[:, 7] == 2, 6] = 0
    table[np.flatnonzero(table[:, 7] == 2)[0], 6] = 1
    refused(rows_of("malignancy", "x1", "sex", table=table), asked)


def gram_of(**columns: np.ndarray) -> None:
    table = cohorts.table()
    made = {"x1": table[:, 0], "malignancy": table[:, 7], **columns}
    disclosure.check_columns(POLICY, values=np.column_stack(list(made.values())), names=tuple(made))


def graded(*, twos: int) -> np.ndarray:
    """Values 0 and 1, and 2 for so many patients."""
    grade = (np.arange(cohorts.PATIENTS) % 3 == 0) * 1.0
    grade[np.flatnonzero(grade)[:twos]] = 2.0
    return grade


@pytest.mark.parametrize("twos", [1, 2, CELL_MIN - 1])
def test_a_combination_of_columns_that_is_a_few_patients_indicator_is_refused(twos):
    grade = graded(twos=twos)
    gram_of(grade=grade)  # alone it shows nobody
    with pytest.raises(TooFewPatients):
        gram_of(grade=grade, ill=(grade > 0) * 1.0)
    with pytest.raises(TooFewPatients):
        gram_of(grade=grade, square=grade**2)
    enough = graded(twos=CELL_MIN)
    gram_of(grade=enough, square=enough**2)


def test_cells_of_groups_that_combinations_of_columns_show_are_counted():
    grade = graded(twos=12)
    sex = (np.arange(cohorts.PATIENTS) % 2).astype(float)
    gram_of(grade=grade, square=grade**2, sex=sex)
    sex[np.flatnonzero(grade == 2)] = [1, 1, *[0] * 10]  # two of the twelve
    gram_of(grade=grade, sex=sex)
    with pytest.raises(TooFewPatients):
        gram_of(grade=grade, square=grade**2, sex=sex)


def test_leverage_is_that_of_the_hat_matrix_whatever_the_units_and_aliases():
    random = np.random.default_rng(3)
    x = random.normal(size=(40, 3)) * [1e-9, 1.0, 1e9] + [0, 5, 1e9]
    design = np.column_stack([np.ones(40), (x - x.mean(axis=0)) / x.std(axis=0)])
    hat = np.diag(design @ np.linalg.solve(design.T @ design, design.T))
    assert np.allclose(span.leverage(x), hat, rtol=1e-6)
    aliased = np.column_stack([x, x[:, 0] * 3 + x[:, 1], np.full(40, 7.0)])
    assert np.allclose(span.leverage(aliased), hat, rtol=1e-6)
    assert np.allclose(span.leverage(np.full((40, 2), 0.1)), 1 / 40)


def test_a_patient_alone_in_the_last_digits_of_nearly_aliased_columns_is_refused():
    x = np.linspace(1.0, 9.0, cohorts.PATIENTS)
    other = x.copy()
    other[7] += 2.0**-30
    with pytest.raises(TooFewPatients):
        gram_of(a=x, b=other)
