"""Attacks on exact sums, each as it is made: the hospital refuses it, and answers the honest question."""

import numpy as np
import pytest

from client import disclosure, span
from client.config import CELL_MIN
from client.kernels.answer import answer
from client.kernels.rows import Rows
from common import query
from common.errors import TooFewPatients
from common.query import Query, ask
from tests import cohorts
from tests.policies import policy

POLICY = policy(cluster_sums=True)
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


@pytest.mark.parametrize("others", [1, 2, CELL_MIN - 1])
def test_a_combination_of_columns_that_is_a_few_patients_indicator_is_refused(others):
    grade = np.arange(cohorts.PATIENTS) % 8.0
    again, enough = grade.copy(), grade.copy()
    again[:others] = grade[:others] + 1
    enough[:24] = grade[:24] + 1
    gram_of(grade=grade)
    gram_of(grade=grade, enough=enough)
    with pytest.raises(TooFewPatients):
        gram_of(grade=grade, again=again)


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


def mixed(*, weight: float, means: list[float], variances: list[float]) -> Query:
    numbers = {"centre": [0.0] * 3, "scale": [1.0] * 3, "weights": [1 - weight if weight == 0.5 else 1.0, weight]}
    return ask("mixture", responses=["x1", "x2", "malignancy"], numbers={**numbers, "means": means, "variances": variances})


def test_a_component_that_wins_nobody_and_sits_on_one_patient_is_refused():
    table = cohorts.table()
    table[0, 0] = 12.0
    rows = rows_of("x1", "x2", "malignancy", table=table)
    wide = [100.0, 100.0, 100.0]
    answered(rows, mixed(weight=0.5, means=[1, -4, 2, 4, 4, 4], variances=[9.0, 16.0, 4.0, 9.0, 16.0, 4.0]))
    refused(rows, mixed(weight=2.0**-50, means=[0, 0, 4, 16, 0, 4], variances=[*wide, 0.5, 100, 100]))
    top = float(rows.values[:, 0].max())
    refused(rows, mixed(weight=2.0**-25, means=[0, 0, 4, top, 0, 4], variances=[*wide, 0.004, 100, 100]))
    refused(rows, mixed(weight=0.5, means=[0, 0, 4, 9, 0, 4], variances=[*wide, 2.0**-12, 100, 100]))


def test_a_component_of_fewer_patients_than_a_cell_is_refused():
    rows = rows_of("x1", "x2", "malignancy")
    refused(rows, mixed(weight=2.0**-6, means=[0, 0, 4, 0, 0, 4], variances=[100.0] * 6))  # 2.5 patients, of all alike
    answered(rows, mixed(weight=2.0**-3, means=[0, 0, 4, 0, 0, 4], variances=[100.0] * 6))


GRID4 = tuple(np.linspace(0, 1, 5).tolist())


def ranked(score: list[float], other: list[float]) -> Query:
    grids = {"grid.0": GRID4, "grid.1": tuple(np.linspace(0, 8, 5).tolist())}
    return ask("rank_gram", responses=["score", "malignancy"], numbers={**grids, "score.0": score, "score.1": other})


def test_scores_whose_digits_spell_the_table_are_refused():
    table = cohorts.table()
    table[:, 7] = np.clip(table[:, 2] * 6 + np.random.default_rng(3).normal(0, 0.7, len(table)), 0.1, 7.9)
    rows = rows_of("score", "malignancy", table=table)
    even = [-0.75, -0.25, 0.25, 0.75]
    answered(rows, ranked(even, even))
    digits, cut = [2.0 ** (10 * at - 12) for at in range(4)], [0.0, 2.0**-52, 1.0, 1.0 + 2.0**-52]
    refused(rows, ranked(digits, even))
    refused(rows, ranked(even, cut))
    refused(rows, ranked(digits, cut))


def test_scores_with_more_digits_than_a_table_has_bits_are_refused():
    """A sum of products with generic digits is a knapsack: lattice reduction finds the only table that gives it."""
    table = cohorts.table()
    table[:, 7] = np.clip(table[:, 2] * 6 + np.random.default_rng(3).normal(0, 0.7, len(table)), 0.1, 7.9)
    rows = rows_of("score", "malignancy", table=table)
    generic = [0.0, 1 / 3, 2 / 3 + 0.01, 1.0]  # rises evenly, in 52 binary digits
    refused(rows, ranked(generic, generic))
    ranks = [-0.5, -0.125, 0.125, 0.5]
    answered(rows, ranked(ranks, ranks))
    spread = np.tile([0.1, 2.1, 4.1, 6.1], len(table) // 4 + 1)[: len(table)]
    table[:, 2], table[:, 7] = np.repeat([0.1, 0.3, 0.6, 0.9], len(table) // 4), spread
    answered(rows_of("score", "malignancy", table=table), ranked(generic, generic))  # no small cell to be told


def test_a_table_so_small_that_one_sum_of_scores_tells_it_has_no_small_cell():
    table = cohorts.table()
    table[:, 7] = np.where(table[:, 2] < 0.5, 1.0, 7.0)
    table[:2, 7] = 7.0
    even = [-0.75, -0.25, 0.25, 0.75]
    refused(rows_of("score", "malignancy", table=table), ranked(even, even))


def few_apart() -> np.ndarray:
    """A table in which k - 1 patients stand so far from the others that a slope can weigh them alone."""
    table = cohorts.table()
    table[:, 0] = np.linspace(-4, 4, len(table))
    table[: CELL_MIN - 1, 0] = 14.75, 15.0, 15.5, 15.75
    table[: CELL_MIN - 1, 3] = 0, 1, 0, 1
    table[: CELL_MIN - 1, 5] = 0, 1, 0, 1
    return table


def test_weights_that_a_few_patients_share_are_refused():
    rows = rows_of("y", "x1", "x2", table=few_apart())

    def asked(kernel: str, slope: float) -> Query:
        coefficients = [-slope * 15.25 / 32, slope, 0.0]  # even odds between the two
        inverse = {"inverse": [0.01, 0, 0, 0.01, 0, 0.01]} if kernel == "firth" else {}
        return ask(kernel, responses=["y"], predictors=["x1", "x2"], numbers={"coefficients": coefficients, **inverse})

    answered(rows, asked("logistic", 0.5))
    refused(rows, asked("logistic", 36.0))
    refused(rows, asked("firth", 36.0))


def test_hazards_that_a_few_patients_share_are_refused():
    rows = rows_of("time", "dead", "x1", table=few_apart())
    stratified = ask("cox_stratified", responses=["time", "dead"], predictors=["x1"], numbers={"coefficients": [0.5]})
    answered(rows, stratified)
    refused(rows, ask("cox_stratified", responses=["time", "dead"], predictors=["x1"], numbers={"coefficients": [18.0]}))


def test_levels_that_a_few_patients_share_are_refused():
    table = few_apart()
    table[:, 7] = np.arange(len(table)) % 3
    rows = rows_of("malignancy", "x1", table=table)

    def asked(slope: float) -> Query:
        cut = slope * 15.25 / 32
        numbers = {"thresholds": [cut - 1, cut + 1], "coefficients": [slope]}
        return ask("ordinal", responses=["malignancy"], predictors=["x1"], numbers=numbers)

    answered(rows, asked(0.5))
    refused(rows, asked(36.0))


def odds(kernel: str, coefficients: list[float], *, inverse: list[float] | None = None, x: str = "grade") -> Query:
    numbers = {"coefficients": coefficients} | ({"inverse": inverse} if inverse else {})
    return ask(kernel, responses=["y"], predictors=[x], numbers=numbers)


def with_grade(*, threes: int) -> Rows:
    table = cohorts.table()
    held = rows_of("y", "x1", table=table)
    grade = np.arange(cohorts.PATIENTS) // 2 % 3.0
    grade[np.flatnonzero(grade == 2)[:threes]] = 3
    return Rows(names=("y", "grade"), values=np.column_stack([held.values[:, 0], grade]), lower=(0.0, 0.0), upper=(1.0, 3.0))


@pytest.mark.parametrize("kernel", ["logistic", "firth"])
def test_a_fit_whose_weights_differ_for_one_patient_only_is_refused(kernel):
    """Grade, probability and variance have a combination that is zero for three grades, and the fourth has one patient."""
    inverse = [0.01, 0.0, 0.01] if kernel == "firth" else None
    answered(with_grade(threes=20), odds(kernel, [1.0, 2.0], inverse=inverse))
    alone = with_grade(threes=1)
    answered(alone, odds(kernel, [0.0, 0.0], inverse=inverse))
    refused(alone, odds(kernel, [1.0, 2.0], inverse=inverse))


@pytest.mark.parametrize("inverse", [[2.0**60, 0.0, 2.0**60], [0.0, 0.0, -1.0], [0.0, 300.0, 0.0]])
def test_an_inverse_that_is_of_no_fit_is_refused(inverse):
    rows = rows_of("y", "x1")
    answered(rows, odds("firth", [0.0, 0.0], inverse=[0.02, 0.0, 0.1], x="x1"))
    refused(rows, odds("firth", [0.0, 0.0], inverse=inverse, x="x1"))


def test_squares_of_residuals_that_single_out_a_patient_are_refused():
    """With residual grade, its square less itself is other than zero for grade 2 only."""

    def fitted(*, twos: int) -> None:
        grade = graded(twos=twos)
        values = np.column_stack([grade, cohorts.table()[:, 0]])
        rows = Rows(names=("grade", "x1"), values=values, lower=(-1.0, -16.0), upper=(3.0, 16.0))
        numbers = {"rows": [640.0], "mean": [0.0], "scale": [1.0], "basis": [0.01], "slope": [0.0], "outcome": [0.0, 1.0]}
        disclosure.check_query(
            POLICY, asked=ask("residuals", responses=["grade"], predictors=["x1"], numbers=numbers), rows=rows
        )

    fitted(twos=30)
    with pytest.raises(TooFewPatients):
        fitted(twos=1)
