"""Two approved studies about the same columns: their Grams are over one roster, and the same patients or many others."""

import copy
from decimal import Decimal

import numpy as np
import pytest

from common.errors import HospitalMissing
from tests import asking, cohorts
from tests.federation import HOSPITALS
from tests.written import refusals

FEW = {"colluders": 0}


def gram(one, wanted, *, run):
    return asking.gram(asking.set_up(one, wanted, run))[1].tolist()


def changed(**keys):
    """The dictionary with some keys of some variables replaced: name -> keys."""
    return [{**one, **keys.get(one["name"], {})} for one in copy.deepcopy(cohorts.VARIABLES)]


UNITS = {one["name"]: {"unit": "one"} for one in cohorts.VARIABLES if "unit" in one}
WIDER = {"x1": {"upper": Decimal(17)}, "x2": {"upper": Decimal(17)}, "malignancy": {"upper": Decimal(9)}}


def pair(make_federation, again, *, dealt=None):
    """A federation whose hospitals approved a study, and another one that differs in its dictionary."""
    one = make_federation(colluders_min=0, hospitals_min=3)
    first = cohorts.study(privacy=FEW, hospitals_min=3)
    second = cohorts.study(title="again", privacy=FEW, hospitals_min=3, variables=changed(**again))
    cohorts.put(one, first, cohorts.tables())
    cohorts.put(one, second, cohorts.tables() if dealt is None else dealt)
    return one, first, second


@pytest.mark.parametrize("again", [UNITS, WIDER], ids=["another text of the unit", "bounds that touch nobody"])
def test_another_dictionary_does_not_take_a_hospital_out_of_the_roster(again, make_federation):
    one, first, second = pair(make_federation, again)
    gram(one, first, run="first")
    one.before = lambda name, data: data if name != "hosp-d" else None
    with pytest.raises(HospitalMissing):
        gram(one, second, run="second")
    assert {name: refusals(one, name) for name in HOSPITALS[:3]} == {name: ["E-REFUSED-REPEAT"] for name in HOSPITALS[:3]}


def test_bounds_that_leave_out_one_patient_are_refused(make_federation):
    dealt = cohorts.tables()
    top, below = np.sort(np.concatenate([rows[:, 0] for rows in dealt.values()]))[[-1, -2]]
    cut = Decimal(str(round((top + below) / 2, 6)))
    for rows in dealt.values():
        rows[rows[:, 0] > float(cut), 0] = np.nan
    one, first, second = pair(make_federation, {**WIDER, "x1": {"upper": cut}}, dealt=dealt)
    gram(one, first, run="first")
    with pytest.raises(HospitalMissing):
        gram(one, second, run="second")
    assert sum(refusals(one, name) == ["E-REFUSED-REPEAT"] for name in HOSPITALS) == 1  # the hospital of that patient


@pytest.mark.parametrize("again", [{}, UNITS, WIDER], ids=["another title", "units", "bounds"])
def test_a_new_version_over_the_same_rows_and_roster_is_answered_also_after_a_restart(again, make_federation):
    one, first, second = pair(make_federation, again)
    bits = gram(one, first, run="first")
    for name in HOSPITALS:
        one.restart(name)
    other = gram(one, second, run="second")
    assert gram(one, second, run="third") == other
    assert (other == bits) is (again is not WIDER)
    assert {name: refusals(one, name) for name in HOSPITALS} == {name: [] for name in HOSPITALS}


def test_a_study_that_shares_some_variables_is_answered_over_the_same_rows(make_federation):
    one, first, _ = pair(make_federation, {})
    gram(one, first, run="first")
    wanted = cohorts.study(
        privacy=FEW,
        statistics={"correlation": ["x1", "time"], "regression": {"outcome": "x2", "predictors": ["x1"]}},
    )
    cohorts.put(one, wanted, cohorts.tables())
    gram(one, wanted, run="second")
    assert {name: refusals(one, name) for name in HOSPITALS} == {name: [] for name in HOSPITALS}
