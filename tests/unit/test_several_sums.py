"""Attacks by sums that are harmless one by one: over several sets of patients, of columns nearly alike, of many functions."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from client import cells, disclosure, entering, overlaps, released, span
from client.config import CELL_MIN
from client.released import Asking, Record
from common import terms
from common.errors import AlreadyAnswered, TooFewPatients
from common.query import ask
from tests import cohorts
from tests.asking import Asker, asker
from tests.unit.test_disclosure_attacks import POLICY
from tests.unit.test_sums_together import SECRET, judge_of, one_sum

FEW = CELL_MIN - 1
WHOLE = frozenset(f"p{at}" for at in range(100))


def less(*ranges: range) -> frozenset[str]:
    """Everybody but these."""
    return WHOLE - {f"p{at}" for one in ranges for at in one}


def test_the_one_who_lacks_two_values_is_not_what_four_sums_leave(make_federation):
    """All, less those without x2, less those without a score, plus those with both: the values of who lacks both."""
    dealt = cohorts.tables()
    for gone, name in (([3, *range(20, 50)], "x2"), ([3, *range(60, 90)], "score")):
        dealt["hosp-a"][gone, cohorts.NAMES.index(name)] = np.nan
    terms_ = ("malignancy",), ("malignancy", "x2"), ("malignancy", "score"), ("malignancy", "x2", "score")
    made = asker(make_federation, *({"kind": "robust", "formula": f"x1 ~ {' + '.join(some)}"} for some in terms_), rows=dealt)
    asked = [ask("exact_gram", responses=["x1"], predictors=some) for some in terms_]
    for position in range(3):
        made.ask(asked[position], position=position)
    assert made.refused(asked[3], position=3) == "E-REFUSED-REPEAT"


def test_what_several_sets_leave_alone():
    one, other, small = range(40), range(30, 60), range(39, 60)
    left = overlaps.alone([WHOLE, less(one), less(other), less(one, other)], few=FEW)
    assert sorted(map(len, left)) == [10, 20, 30, 40]  # every part
    left = overlaps.alone([WHOLE, less(one), less(other)], few=FEW)
    assert sorted(map(len, left)) == []  # no part by itself
    assert list(overlaps.alone([WHOLE, less(one), less(small), less(one, small)], few=FEW)) == [frozenset()]
    assert not list(overlaps.alone([WHOLE, less(one), WHOLE], few=FEW))  # two sets are judged as a pair


def test_two_small_parts_that_only_together_are_left_alone_are_few():
    """With a and b in other sets each, and many beside them: the first and the second, less the third, are both."""
    many, more = less(range(50)), less(range(50, 100))
    sets = [many | {"a"}, more | {"b"}, many | more]
    assert list(overlaps.alone(sets, few=FEW)) == [frozenset()]
    assert frozenset() not in overlaps.alone([*sets[:2], many | more | {"a", "b"}], few=FEW)


def test_many_small_parts_beside_three_that_are_left_alone_do_not_hide_them():
    """70 patients who are in different ones of eight more sets: more choices of few than are looked at."""
    random, lots = np.random.default_rng(3), [less(range(50)), less(range(50, 100)), frozenset(f"q{at}" for at in range(50))]
    decoys = random.permutation(np.arange(1, 256))[:70].tolist()
    beside = [frozenset({f"r{i}" for i in range(60)} | {f"d{i}" for i in decoys if i >> at & 1}) for at in range(8)]
    three = [lot | {one} for lot, one in zip(lots, "abc", strict=True)]
    assert list(overlaps.alone([*three, frozenset().union(*lots), *beside], few=FEW)) == [frozenset()]
    assert list(overlaps.alone([*three, frozenset().union(*lots)], few=FEW)) == [frozenset()]


@pytest.mark.parametrize("before", ["", "table"])
def test_a_group_that_several_sets_leave_alone_is_judged_as_those_apart_in_two(before):
    """Also where, before, variables of everybody were only counted."""
    patients = judge_of().cohort.patients
    gone = patients[:30], patients[25:60]

    def asking(*lack) -> Asking:
        held = [patient for patient in patients if not any(patient in one for one in lack)]
        names = frozenset({"x1", "x2", "malignancy"})
        return Asking(label="l", variables=names, roster=("a",), patients=held, functions=tuple(sorted(names)))

    table = cohorts.table()
    judge, record = judge_of(table), Record(sets={}, sums=(), queries={})
    if before:
        first = replace(asking(), kernel=before, functions=())
        record = released.check(record, asking=first, cell_min=CELL_MIN, secret=SECRET, judge=judge)
    for at, lack in enumerate(((), gone[:1], gone[1:])):
        asked = replace(asking(*lack), label=str(at))
        record = released.check(record, asking=asked, cell_min=CELL_MIN, secret=SECRET, judge=judge)
    with pytest.raises(TooFewPatients):  # five patients of three variables are left
        released.check(record, asking=asking(*gone), cell_min=CELL_MIN, secret=SECRET, judge=judge)
    smaller = gone[0], patients[27:60]
    record = replace(record, sums=record.sums[:-1])
    record = released.check(record, asking=asking(*smaller[1:]), cell_min=CELL_MIN, secret=SECRET, judge=judge)
    with pytest.raises(AlreadyAnswered, match="alone"):
        released.check(record, asking=asking(*smaller), cell_min=CELL_MIN, secret=SECRET, judge=judge)


@pytest.mark.parametrize("before", [(), ("y", "dead")], ids=["", "one by one"])
def test_two_factors_of_a_group_left_alone_are_judged_together_whatever_was_summed_of_each_before(before):
    """Of 20 patients who lack two values two are dead of ten with y and ten dead."""
    table, patients = cohorts.table(), judge_of().cohort.patients
    gone = patients[:40], patients[20:60]
    for even in (slice(20), slice(40, 60)):
        table[even, 3], table[even, 5] = np.repeat([1, 0], 10), np.tile([1, 0], 10)
    table[20:40, 3], table[20:40, 5] = np.repeat([1, 0], 10), np.r_[np.repeat([1, 0], [2, 8]), np.repeat([1, 0], [8, 2])]
    judge, record = judge_of(table), Record(sets={}, sums=(), queries={})

    def asking(*names: str, lack: tuple[tuple[str, ...], ...] = ()) -> Asking:
        held = tuple(patient for patient in patients if not any(patient in one for one in lack))
        label = f"{names} {len(held)} {lack == gone[1:]}"
        return Asking(label=label, variables=frozenset(names), roster=("a",), patients=held, functions=names)

    sums = [*(asking(name) for name in before), *(asking("dead", "y", lack=lack) for lack in ((), gone[:1], gone[1:]))]
    for one in sums:
        record = released.check(record, asking=one, cell_min=CELL_MIN, secret=SECRET, judge=judge)
    with pytest.raises(TooFewPatients):
        released.check(record, asking=asking("dead", "y", lack=gone), cell_min=CELL_MIN, secret=SECRET, judge=judge)


WITHOUT_X1 = {"correlation": ["score", "time"], "regression": {"outcome": "score", "predictors": ["time"]}}
LEVELS = [
    {"name": one["name"], "source": "clinical", "unit": "1", "levels": ["no", "yes"]} if one["name"] in {"y", "dead"} else one
    for one in cohorts.VARIABLES
]


def test_the_only_man_in_whom_two_factors_differ_is_not_the_difference_of_two_interactions():
    """`sex * y` and `sex * dead`: factors that differ in five patients, of whom one is a man."""
    table = cohorts.table()
    table[:, 5] = table[:, 3]
    without = table[:, 3] == 0
    study = cohorts.study(variables=LEVELS)
    formulas = [study.model(f"x1 ~ sex * {name}").columns for name in ("y", "dead")]
    for men, told in ((1, True), (CELL_MIN, False)):
        table[np.flatnonzero(without & (table[:, 6] == 1))[:men], 5] = 1
        table[np.flatnonzero(without & (table[:, 6] == 0))[:CELL_MIN], 5] = 1
        judge = judge_of(table, study=study)
        functions = [frozenset(entering._functions(columns)) for columns in formulas]
        assert terms.column(*formulas[0][-1].pieces).name in functions[0]
        now = one_sum("exact_gram", "x1", "sex", "dead")
        judge.span(now, functions[1])
        if told:
            with pytest.raises(TooFewPatients):
                judge.span(now, functions[0] | functions[1])
        else:
            judge.span(now, functions[0] | functions[1])


@pytest.mark.parametrize("others", [1, 3, FEW])
def test_two_measurements_that_differ_in_a_few_patients_are_not_summed_beside_one_outcome(others):
    """`malignancy ~ x1` and `malignancy ~ x2`: the malignancy of whom x2 corrects."""
    table = cohorts.table()
    now = one_sum("exact_gram", "x1", "x2", "malignancy")
    for corrected in (others, 40):
        table[:, 1] = table[:, 0]
        table[:corrected, 1] += np.linspace(1, 3, corrected)
        judge = judge_of(table)
        judge.span(now, frozenset({"malignancy", "x2"}))
        if corrected == others:
            with pytest.raises(TooFewPatients):
                judge.span(now, frozenset({"malignancy", "x1", "x2"}))
            with pytest.raises(TooFewPatients):  # nor in one sum
                disclosure.check_columns(POLICY, values=table[:, [0, 1, 7]], names=("x1", "x2", "malignancy"))
        else:
            judge.span(now, frozenset({"malignancy", "x1", "x2"}))


def test_a_sum_that_the_few_did_not_enter_does_not_hide_them_from_two_that_they_did():
    table = cohorts.table()
    table[:, 1] = table[:, 0]
    table[:3, 1] += np.linspace(1, 3, 3)
    table[:60, 2] = np.nan
    judge = judge_of(table)

    def asking(*names: str, lack: int = 0) -> Asking:
        patients = judge.cohort.patients[lack:]
        return Asking(
            label=f"{names}", variables=frozenset(names), roster=("a",), patients=patients, functions=tuple(sorted(names))
        )

    record = Record(sets={}, sums=(), queries={})
    for one in (asking("malignancy", "x1"), asking("malignancy", "score", lack=60)):
        record = released.check(record, asking=one, cell_min=CELL_MIN, secret=SECRET, judge=judge)
    with pytest.raises(TooFewPatients):
        released.check(record, asking=asking("malignancy", "x2"), cell_min=CELL_MIN, secret=SECRET, judge=judge)


def test_a_measurement_that_only_another_study_has_is_judged_beside_those_of_this_one():
    table = cohorts.table()
    table[:, 1] = table[:, 0]
    table[17, 1] += 1.5
    study = cohorts.study(variables=[one for one in cohorts.VARIABLES if one["name"] != "x1"], statistics=WITHOUT_X1)
    held = cohorts.cohort("hosp-a", np.delete(table, 0, axis=1), study)
    alone = replace(judge_of(table), study=study, cohort=held, whole=held)
    functions, now = frozenset({"malignancy", "x1", "x2"}), one_sum("exact_gram", "x2", "malignancy")
    alone.span(now, functions)  # x1 is known nowhere
    first = judge_of(table)
    fewer = replace(first.cohort, patients=first.cohort.patients[1:], table=first.cohort.table[1:], bags=first.cohort.bags[1:])
    for other in (first.cohort, fewer):
        with pytest.raises(TooFewPatients):
            replace(alone, others=((first.study, other),)).span(now, functions)


def test_a_vault_judges_by_the_columns_of_every_study_that_it_keeps(make_federation):
    dealt = cohorts.tables()
    for table in dealt.values():
        table[:, 1] = table[:, 0]
    dealt["hosp-a"][17, 1] += 1.5
    less_x1 = [one for one in cohorts.VARIABLES if one["name"] != "x1"]
    made = asker(make_federation, {"kind": "robust", "formula": "malignancy ~ x1"}, rows=dealt)
    made.ask(ask("exact_gram", responses=["malignancy"], predictors=["x1"]))
    made.inner.close()
    other = cohorts.study({"kind": "robust", "formula": "malignancy ~ x2"}, variables=less_x1, statistics=WITHOUT_X1)
    cohorts.put(made.one, other, {name: np.delete(table, 0, axis=1) for name, table in dealt.items()})
    second = Asker(made.one, other, run="again")
    asked = ask("exact_gram", responses=["malignancy"], predictors=["x2"])
    assert second.refused(asked) == "E-REFUSED-PATIENTS"


def test_a_share_of_a_pair_is_that_of_the_worst_combination_of_both_and_a_constant():
    random = np.random.default_rng(5)
    x = random.normal(size=(60, 2)) @ [[1.0, 0.99], [0.0, 0.01]]
    x[11, 1] += 0.3
    rows = span.basis(x)
    assert np.isclose(span.apart(x, few=1), (rows * rows).sum(axis=1).max())
    best = max(np.linalg.norm(rows[list(some)], 2) ** 2 for some in combinations(range(60), 2))
    assert np.isclose(span.apart(x, few=2), best, rtol=0.02)
    assert span.apart(np.column_stack([x[:, 0], 3 * x[:, 0] + 1]), few=2) < 0.5  # aliased: nothing is left
    assert span.apart(x[:7], few=2) == 0.0


def values_of(*counts: int) -> np.ndarray:
    """Shuffled values 0, 1, 2, ... of so many patients each."""
    return np.random.default_rng(2).permutation(np.repeat(np.arange(len(counts)), counts)).astype(float)


@pytest.mark.parametrize(
    ("counts", "powers", "told"),
    [
        ((80, 70, 10), 1, False),
        ((80, 70, 4), 1, True),
        ((40, 40, 40, 40, 1), 1, False),
        ((40, 40, 40, 38, 2), 2, True),
        ((40, 40, 40, 2, 2), 1, False),
        ((60, 60, 2, 2), 1, True),  # h(0) = h(1) = 0: a sum over the four others
        ((40, 40, 40, 38, 2, 30), 2, False),
    ],
)
def test_products_do_not_count_few_patients_by_the_value_of_a_number(counts, powers, told):
    """n, the sum and the sum of squares of a number with three values are the counts of all three; with its square, of five."""
    value = values_of(*counts)
    columns = {"value": value, **({"square(value)": value**2} if powers == 2 else {})}
    columns["x"] = np.random.default_rng(1).normal(size=len(value))
    assert cells.tell_few(np.column_stack(list(columns.values())), names=tuple(columns), few=FEW) == told


def test_the_level_without_an_indicator_is_counted_too_alone_and_with_another_factor():
    stage, sex = values_of(3, 80, 77), values_of(80, 80)
    names = ("stage[ii]", "stage[iii]", "sex[m]")
    with pytest.raises(TooFewPatients):
        gram(names, stage == 1, stage == 2, sex)
    stage = values_of(50, 60, 50)
    gram(names, stage == 1, stage == 2, sex)
    sex = np.where(stage == 0, np.arange(160) % 2, sex)
    sex[np.flatnonzero(stage == 0)] = [1, 1, *[0] * 48]  # no two indicators meet in these two
    with pytest.raises(TooFewPatients):
        gram(names, stage == 1, stage == 2, sex)


def gram(names, *columns) -> None:
    disclosure.check_columns(POLICY, values=np.column_stack(columns).astype(float), names=names)


def ages(*, count: int, functions: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Functions of an age in whole years: plain, transformed, and products of these."""
    age = np.clip(np.rint(np.random.default_rng(1).normal(62, 9, count)), 40, 85)
    made = {"age": age, "square(age)": age**2, "log(age)": np.log(age), "sqrt(age)": np.sqrt(age)}
    products = [some for size in range(1, 5) for some in combinations(made, size)][:functions]
    columns = [np.prod([made[name] for name in some], axis=0) for some in products]
    return np.column_stack(columns), tuple(":".join(some) for some in products)


def test_many_functions_of_an_age_are_not_summed_since_they_count_every_year():
    """The sums of products of 15 functions are 136 equations about the number of patients of each of 46 years."""
    values, names = ages(count=1000, functions=15)
    with pytest.raises(TooFewPatients, match="count"):
        gram(names, values)
    gram(names[:3], values[:, :3])


def test_sums_of_products_are_not_more_than_the_values_behind_them():
    random = np.random.default_rng(6)
    made = {"x": random.gamma(2, size=200), "z": random.gamma(2, size=200)}
    for name in ("x", "z"):
        made[f"log({name})"] = np.log(made[name])
        made[f"sqrt({name})"] = np.sqrt(made[name])
    names = [(one, other) for one, other in combinations(made, 2)]
    made |= {f"{one}:{other}": made[one] * made[other] for one, other in names}
    told, behind = cells.numbers(np.column_stack(list(made.values())), names=tuple(made))
    assert behind == 400
    assert 200 < told <= 253
    with pytest.raises(TooFewPatients, match="more sums"):
        gram(tuple(made)[:12], np.column_stack(list(made.values()))[:40, :12])


def test_products_of_factors_count_once_where_they_are_one_number():
    one, other = values_of(40, 40, 40, 40), values_of(40, 40, 40, 40)
    columns = {f"a[{at}]": one == at for at in (1, 2, 3)} | {f"b[{at}]": other[::-1] == at for at in (1, 2, 3)}
    columns |= {f"a[{i}]:b[{j}]": columns[f"a[{i}]"] & columns[f"b[{j}]"] for i in (1, 2, 3) for j in (1, 2, 3)}
    told, behind = cells.numbers(np.column_stack(list(columns.values()))[:50].astype(float), names=tuple(columns))
    assert (told, behind) == (17, 100)  # a number for each of 16 cells, and none
