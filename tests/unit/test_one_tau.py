"""A meta-analysis is told one variance between hospitals, ever: each other one would say more about their own estimates."""

import copy
from decimal import Decimal

import pytest

from common.query import ask
from tests import cohorts
from tests.asking import answered, set_up
from tests.federation import HOSPITALS
from tests.written import refusals

FOREST = {"kind": "forest", "formula": "malignancy ~ x1 + x2"}
FEW = {"colluders": 0}
TAU = (0.25, 0.5)


def again(tau, *, predictors=("x1", "x2")):
    return ask("meta_random", responses=["malignancy"], predictors=predictors, numbers={"tau": list(tau)})


@pytest.fixture
def told(make_federation):
    """Four hospitals of which none works with the coordinator, and which were told one variance."""
    one, wanted = make_federation(colluders_min=0), cohorts.study(FOREST, privacy=FEW)
    cohorts.put(one, wanted, cohorts.tables())
    assert answered(set_up(one, wanted, "first"), again(TAU), number=2)
    return one, wanted


def other(*declared, **parts):
    return cohorts.study(*declared, privacy=FEW, title="another", **parts)


def wider():
    variables = copy.deepcopy(cohorts.VARIABLES)
    variables[0]["upper"] = Decimal(17)
    return other(FOREST, variables=variables)


def prepared():
    return other(FOREST, recipe={"patch_voxels": 48})


def turned():
    return other({**FOREST, "formula": "malignancy ~ x2 + x1"})


def meta():
    return other({**FOREST, "kind": "meta-analysis"})


def test_a_second_tau_is_refused_in_the_run_and_in_another(told):
    one, wanted = told
    assert not answered(set_up(one, wanted, "second"), again((0.5, 0.5)), number=3)
    for name in HOSPITALS:
        one.restart(name)
    assert not answered(set_up(one, wanted, "third"), again((0.25, 5.0)), number=2)
    assert answered(set_up(one, wanted, "fourth"), again(TAU), number=2)  # what is known may be asked again


@pytest.mark.parametrize(
    "make", [wider, prepared, turned, meta], ids=["other bounds", "another recipe", "other order", "meta-analysis"]
)
def test_a_second_tau_is_refused_in_another_approved_study(told, make):
    one, wanted = told[0], make()
    cohorts.put(one, wanted, cohorts.tables())
    predictors = ("x2", "x1") if make is turned else ("x1", "x2")
    assert not answered(set_up(one, wanted, "second"), again((0.5, 0.5), predictors=predictors), number=2)
    assert {code for name in HOSPITALS for code in refusals(one, name)} == {"E-REFUSED-REPEAT"}
    same = tuple(reversed(TAU)) if make is turned else TAU
    assert answered(set_up(one, wanted, "third"), again(same, predictors=predictors), number=2) is (make is not wider)


def test_each_form_is_asked_once(told):
    one, wanted = told
    weighted = ask("meta", responses=["malignancy"], predictors=["x1", "x2"])
    shown = ask("meta_rows", responses=["malignancy"], predictors=["x1", "x2"])
    assert answered(set_up(one, wanted, "second"), weighted, number=1)
    assert answered(set_up(one, wanted, "third"), shown, number=3)
    assert not answered(set_up(one, wanted, "fourth"), again((1.0, 1.0)), number=2)
    assert {code for name in HOSPITALS for code in refusals(one, name)} == {"E-REFUSED-REPEAT"}


def test_the_fit_of_robust_errors_is_told_once(make_federation):
    one = make_federation(colluders_min=0)
    wanted = cohorts.study({"kind": "robust", "formula": "malignancy ~ x1"}, privacy=FEW)
    cohorts.put(one, wanted, cohorts.tables())

    assert one.run(wanted)["analyses"][0]["sums"] == 2
    numbers = {"rows": [640], "mean": [2.5], "scale": [2.5], "basis": [1.0], "slope": [0.25], "outcome": [2.5, 1.0]}
    other = ask("residuals", responses=["malignancy"], predictors=["x1"], numbers=numbers)
    assert not answered(set_up(one, wanted, "second"), other, number=2)
    assert {code for name in HOSPITALS for code in refusals(one, name)} == {"E-REFUSED-PARAMETERS"}


def test_a_study_run_twice_gives_the_same_meta_analysis(make_federation):
    one, wanted = make_federation(colluders_min=0), cohorts.study(FOREST, privacy=FEW)
    cohorts.put(one, wanted, cohorts.tables())
    first, second = (one.run(wanted)["analyses"][0] for _ in range(2))
    assert first["result"]["heterogeneity"] == second["result"]["heterogeneity"]
    assert {row["method"] for row in first["result"]["rows"]} > {"equal effects"}
    assert first["result"] == second["result"]
