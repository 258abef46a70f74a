"""Several analyses of the same variables may not together solve for hospitals' own aggregates: equations are counted."""

import pytest

from common import site_sums
from tests import cohorts
from tests.asking import answered, set_up
from tests.federation import HOSPITALS
from tests.written import refusals

NARROW = {"correlation": ["x1", "time"], "regression": {"outcome": "time", "predictors": ["x1"]}}  # not all columns in the Gram


def meta(formula, kind="meta-analysis"):
    return {"kind": kind, "formula": formula}


ABSORBED = {"kind": "fixed-site", "formula": "malignancy ~ x1 + x2"}
THREE = [meta("malignancy ~ x1 + x2"), meta("malignancy ~ x1"), meta("malignancy ~ x2")]


@pytest.mark.parametrize(
    ("declared", "honest", "found"),
    [
        ([*THREE, ABSORBED], 3, True),  # 23 sums for 21 unknowns
        ([*THREE], 3, False),  # 17
        ([meta("malignancy ~ x1"), meta("x1 ~ malignancy"), {**ABSORBED, "formula": "malignancy ~ x1"}], 3, True),  # 12 for 12
        ([meta("malignancy ~ x1"), {**ABSORBED, "formula": "malignancy ~ x1"}], 3, False),  # 8 for 12
        ([meta("malignancy ~ x1"), meta("malignancy ~ x1", kind="forest")], 3, False),  # the same model twice
        ([*THREE, ABSORBED], 4, True),  # with random effects 35 for 28
        ([meta("malignancy ~ x1 + x2"), ABSORBED], 4, False),  # 21 for 28
        ([*THREE, ABSORBED, meta("time ~ score + dead + y")], 3, True),  # columns beside it hide nothing
        ([], 3, False),
    ],
)
def test_sums_are_counted_against_unknowns(declared, honest, found):
    assert site_sums.solvable(cohorts.study(*declared, statistics=NARROW), honest=honest) is found


def test_an_equal_study_is_counted_once():
    declared = [meta("malignancy ~ x1 + x2"), {**ABSORBED, "formula": "malignancy ~ x1 + sex"}]
    site_sums._counted.cache_clear()
    for _ in range(3):
        assert not site_sums.solvable(cohorts.study(*declared, statistics=NARROW), honest=5)
    assert site_sums._counted.cache_info().misses == 1
    assert site_sums.solvable(cohorts.study(*declared, statistics=NARROW), honest=1)  # of other hospitals: counted anew
    assert site_sums._counted.cache_info().misses == 2


def first(one, wanted, position, *, run):
    """Whether every hospital answers the first form of an analysis."""
    return answered(set_up(one, wanted, run), wanted.asked(position).forms[0].example(), position=position)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_hospital_refuses_a_study_that_solves_for_its_sums_unless_it_allows_them(allowed, make_federation):
    one, wanted = make_federation(), cohorts.study(*THREE, ABSORBED)
    if allowed:
        for home in one.homes.values():
            home.site_file.write_text(home.site_file.read_text().replace("site_aggregates = false", "site_aggregates = true"))
    cohorts.put(one, wanted, cohorts.tables())
    assert first(one, wanted, 1, run="meta") is allowed
    assert first(one, wanted, 3, run="absorbed") is allowed
    expected = [] if allowed else ["E-REFUSED-PARAMETERS"] * 2
    assert {name: refusals(one, name) for name in HOSPITALS} == dict.fromkeys(HOSPITALS, expected)


def test_a_study_of_one_model_is_answered(make_federation):
    one, wanted = make_federation(), cohorts.study(THREE[0], ABSORBED)
    cohorts.put(one, wanted, cohorts.tables())
    assert first(one, wanted, 0, run="meta")
    assert first(one, wanted, 1, run="absorbed")
