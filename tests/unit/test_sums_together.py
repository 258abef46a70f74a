"""What two exact sums tell together, and what refusals tell: each attack as it is made, and the honest question answered."""

from dataclasses import replace

import numpy as np
import pytest

from client import entering, released
from client.between import Judge
from client.config import CELL_MIN
from client.kernels.rows import Rows
from client.released import Asking, Record
from common import analyses, query
from common.announcement import Announcement
from common.errors import AlreadyAnswered, OutsidePolicy, TooFewPatients
from common.mechanism import Exact
from common.query import ask
from tests import cohorts
from tests.asking import LOGISTIC, Asker, asker, glm
from tests.federation import HOSPITALS
from tests.unit.test_disclosure_attacks import POLICY

SECRET = b"s" * 32
STUDY = cohorts.study()
EIGHTHS, NINTHS = (tuple(float(edge) for edge in np.linspace(0, 1, bins + 1)) for bins in (8, 9))


def test_refusals_do_not_tell_the_largest_value_of_a_hospital(make_federation):
    """A slope is so steep that it chooses patients or not: by bisection, the largest value, were refusals free."""
    made = asker(make_federation, LOGISTIC)
    made.ask(glm(0, 0.5, 0))
    assert made.refused(glm(0, 1000, 0)) == "E-REFUSED-PATIENTS"
    assert made.refused(glm(0, 1, 0)) == "E-REFUSED-PARAMETERS"  # no second bit
    made.inner.close()
    for name in HOSPITALS:
        made.one.restart(name)
    again = Asker(made.one, made.wanted, run="again")
    again.ask(glm(0, 0.5, 0))  # what was answered tells nothing new
    assert again.refused(glm(0, 1000, 0)) == "E-REFUSED-PATIENTS"
    assert again.refused(glm(0, 1, 0)) == "E-REFUSED-PARAMETERS"
    record = released.read(made.one.homes["hosp-a"].state / "released.json")
    assert [len(queries) for queries in record.queries.values()] == [2]


def asking(query: str = "", *, form: str = "form", **parts) -> Asking:
    return Asking(
        **{"label": "l", "variables": frozenset({"x1"}), "roster": ("a", "b"), "patients": ("p",), "kernel": "logistic"}
        | parts,
        query_sha256=query,
        counted="logistic",
        form=form,
    )


def test_a_question_counts_when_it_is_asked_and_is_held_open_until_it_is_answered(tmp_path):
    first = released.asked(Record(sets={}, sums=(), queries={}), asking=asking("1"), queries_most=2)
    assert released.asked(first, asking=asking("1"), queries_most=2) == first  # a crash came between
    with pytest.raises(OutsidePolicy, match="earlier question"):
        released.asked(first, asking=asking("2"), queries_most=2)
    other = released.asked(first, asking=asking("3", form="another"), queries_most=2)
    with pytest.raises(OutsidePolicy, match="as often"):
        released.asked(other, asking=asking("4", form="a third"), queries_most=2)
    closed = released.answered(other, asking=asking("1"))
    assert closed.open == {"another": "3"}
    assert released.asked(closed, asking=asking("1"), queries_most=2) is closed
    assert released.answered(closed, asking=asking("2")) == closed
    released.save(tmp_path / "r", replace(closed, sums=(one_sum("gram", grids={"score": EIGHTHS}),), sets={"all": frozenset()}))
    assert released.read(tmp_path / "r").sums[0].grids == (("score", EIGHTHS),)
    assert released.read(tmp_path / "r").open == closed.open


def one_sum(kernel: str, *variables: str, grids=None) -> released.Released:
    return released.Released(
        label="l",
        variables=frozenset(variables or grids),
        roster=("a", "b"),
        patients="all",
        kernel=kernel,
        grids=tuple(sorted((grids or {}).items())),
    )


def judge_of(table=None, *, study=STUDY) -> Judge:
    held = cohorts.cohort("hosp-a", cohorts.table() if table is None else table, study)
    return Judge(policy=POLICY, study=study, cohort=held, whole=held, secret=SECRET)


def together(earlier, now, *, table=None, apart=()):
    """Judge two sums of which the patients `apart` (rows) are in one only."""
    judge = judge_of(table)
    tags = [released.tag(patient, SECRET) for patient in judge.cohort.patients]
    judge.pair(earlier, now, frozenset(tags[row] for row in apart))


def refused(*sums, **parts):
    with pytest.raises(TooFewPatients):
        together(*sums, **parts)


def test_two_grids_do_not_show_a_patient_between_their_edges():
    table = cohorts.table()
    table[:, 2] = np.tile([0.05, 0.95], len(table) // 2)
    eighths, ninths = one_sum("marginals", grids={"score": EIGHTHS}), one_sum("marginals", grids={"score": NINTHS})
    together(eighths, ninths, table=table)
    table[0, 2] = 0.12  # between 1/9 and 1/8
    refused(eighths, ninths, table=table)
    together(eighths, one_sum("marginals", grids={"score": EIGHTHS}), table=table)
    together(eighths, one_sum("gram", "score", "x1"), table=table)


def test_the_closed_end_of_a_grid_is_no_way_round():
    table = cohorts.table()
    table[:, 7] = np.tile([1.0, 2.0], len(table) // 2)
    table[0, 7] = 4.0
    short, long = (one_sum("marginals", grids={"malignancy": edges}) for edges in ((0.0, 3.0, 4.0), (0.0, 3.0, 4.0, 5.0)))
    refused(short, long, table=table)  # with fewer than k at 4, one by one


def test_two_tables_do_not_show_a_small_cell_of_two_variables():
    table = cohorts.table()
    table[:, 2] = np.tile([0.05, 0.95, 0.115], len(table))[: len(table)]
    table[:, 6] = np.arange(len(table)) % 2
    tables = [one_sum("table", grids={"score": edges, "sex": (-0.5, 0.5, 1.5)}) for edges in (EIGHTHS, NINTHS)]
    together(*tables, table=table)
    table[table[:, 2] == 0.115, 6] = 0
    table[2, 6] = 1
    refused(*tables, table=table)
    together(one_sum("marginals", grids=dict(tables[0].grids)), tables[1], table=table)  # nothing of both together


def test_the_only_man_among_those_who_lack_a_value_is_not_the_difference_of_two_sums():
    table, apart = cohorts.table(), range(24)
    table[:24, 6] = np.arange(24) % 2
    sums = one_sum("gram", "x1", "sex"), one_sum("logistic", "x1", "sex", "y")
    together(*sums, table=table, apart=apart)
    table[:24, 6] = 0
    table[3, 6] = 1
    refused(*sums, table=table, apart=apart)
    refused(one_sum("gram", "x1", "sex"), one_sum("table", "sex", grids={"sex": (-0.5, 0.5, 1.5)}), table=table, apart=apart)
    together(one_sum("gram", "x1"), one_sum("logistic", "x1", "y"), table=table, apart=apart)


def test_patients_apart_are_more_than_what_two_sums_share():
    names = "x1", "x2", "score", "time", "malignancy"
    together(one_sum("gram", *names), one_sum("gram", *names, "y"), apart=range(24))
    refused(one_sum("gram", *names), one_sum("gram", *names, "y"), apart=range(CELL_MIN + 1))


def test_patients_of_whom_a_value_is_not_known_any_more_are_not_taken_out_of_a_sum():
    table = cohorts.table()
    table[:24, 0] = np.nan  # as other bounds leave them out
    refused(one_sum("gram", "x1", "x2"), one_sum("gram", "x1", "x2", "y"), table=table, apart=range(24))
    with pytest.raises(TooFewPatients, match="not in the cohort"):
        judge_of(table).pair(one_sum("gram", "x1"), one_sum("gram", "x1"), frozenset({"0" * 24}))


def graded(*, twos: int) -> np.ndarray:
    """Grades 0 and 1, and 2 for so many patients; `dead` is any grade above 0."""
    table = cohorts.table()
    table[:, 7] = np.arange(len(table)) % 2
    table[np.flatnonzero(table[:, 7])[:twos], 7] = 2
    table[:, 5] = table[:, 7] > 0
    return table


def test_a_transformed_column_counts_among_what_patients_apart_share():
    study = cohorts.study(
        variables=[{**one, "transforms": ["square"] * (one["name"] == "malignancy")} for one in cohorts.VARIABLES]
    )
    table = cohorts.table()
    table[:, 7] = np.arange(len(table)) % 3
    table[3, 7] = 3  # the only one: with the square among the columns, products count four grades, and three without
    judge, names = judge_of(table, study=study), ("x1", "malignancy")
    tags = [released.tag(patient, SECRET) for patient in judge.cohort.patients]
    apart = frozenset(tags[:24])
    plain, squared = (
        [replace(one_sum(kernel, *names), functions=functions) for kernel in ("gram", "logistic")]
        for functions in (names, (*names, "square(malignancy)"))
    )
    judge.pair(*plain, apart)
    with pytest.raises(TooFewPatients):
        judge.pair(*squared, apart)


@pytest.mark.parametrize(
    "functions", [("malignancy", "dead"), ("malignancy", "square(malignancy)")], ids=["two columns", "a square"]
)
def test_two_models_do_not_show_together_what_one_may_not(functions):
    squared = [{**one, "transforms": ["square"] * (one["name"] == "malignancy")} for one in cohorts.VARIABLES]
    study = cohorts.study(variables=squared)
    now = one_sum("exact_gram", "x1", "malignancy", "dead")
    for twos, told in ((0, False), (1, True), (CELL_MIN - 1, True), (CELL_MIN, False)):
        judge = judge_of(graded(twos=twos), study=study)
        judge.span(now, frozenset({"x1", functions[0]}))
        if told:
            with pytest.raises(TooFewPatients):
                judge.span(now, frozenset({"x1", *functions}))
        else:
            judge.span(now, frozenset({"x1", *functions, "of another study"}))


def test_a_second_model_that_tells_the_only_patient_of_a_grade_is_refused(make_federation):
    """The products of x1 with two grades that are alike but for one patient: their difference is that patient's x1."""
    dealt = cohorts.tables()
    for table in dealt.values():
        table[:, 7] = np.arange(len(table)) % 8
        table[:, 1] = table[:, 7]
    dealt["hosp-a"][5, 1] += 1
    models = [{"kind": "robust", "formula": f"x1 ~ {name}"} for name in ("malignancy", "x2", "y")]
    made = asker(make_federation, *models, rows=dealt)
    made.ask(ask("exact_gram", responses=["x1"], predictors=["malignancy"]), position=0)
    assert made.refused(ask("exact_gram", responses=["x1"], predictors=["x2"]), position=1) == "E-REFUSED-PATIENTS"
    made.ask(ask("exact_gram", responses=["x1"], predictors=["y"]), position=2)


def test_who_differs_by_few_or_stands_under_another_roster_is_named_before_anything_is_judged():
    many = tuple(f"p{at}" for at in range(20))
    known = {
        "cell_min": CELL_MIN,
        "secret": SECRET,
        "judge": judge_of(),
    }  # it knows none of them: whatever it judges, it refuses
    with pytest.raises(TooFewPatients, match="not in the cohort"):
        known["judge"].pair(one_sum("gram", "x1"), one_sum("gram", "x1"), frozenset({released.tag("p0", SECRET)}))
    nothing = Record(sets={}, sums=(), queries={})
    record = released.check(nothing, asking=asking(patients=many), **known)
    for other in ({"patients": many[1:]}, {"roster": ("a",), "patients": many}):
        with pytest.raises(AlreadyAnswered):
            released.check(record, asking=asking(**other), **known)
    assert released.check(record, asking=asking(patients=many), **known) is record
    assert len(record.sums) == 1


def test_a_fit_is_told_no_more_numbers_than_there_are_values_behind_them():
    """Twelve numbers a step about so many rows of three columns: more of them could be solved for the rows."""
    study = cohorts.study({**LOGISTIC, "queries_max": 40}, {**LOGISTIC, "queries_max": 9})
    asked = glm(0, 0, 0)
    assert query.dimension(asked) == 12
    for rows, position, most in ((10_000, 0, 40), (160, 0, 40), (80, 0, 20), (79, 0, 19), (79, 1, 9), (2, 0, 1)):
        announced = Announcement(
            run="r", study=study.hash(), roster="", round=1, hospitals=("a",), task="query", dimension=14,
            index=analyses.index(position, number=1), blob_sha256="", mechanism=Exact(statistic="s", ring_bits=128),
        )  # fmt: skip
        table = Rows(names=("y", "x1", "sex[m]"), values=np.zeros((rows, 3)), lower=(0.0, -16.0, 0.0), upper=(1.0, 16.0, 1.0))
        counted, told, form = entering.counting(announced, blob=asked.bytes(), study=study, rows=table)
        assert (counted, told, len(form)) == ("logistic of sex[m] x1 y", most, 64)
