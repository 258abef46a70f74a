"""Which patients enter the sums of a study: those of each analysis, or the same ones for all of them."""

import numpy as np
import pytest
import statsmodels.api as sm

from client import columns, pipeline
from common.errors import ConfigError
from common.study import Study
from tests import cohorts, tables

LOGISTIC = {"kind": "logistic", "formula": "y ~ x1 + sex", "queries_max": 12}
AGREEMENT = {"kind": "agreement", "readers": ["x1", "malignancy"]}
TOGETHER = {"complete_cases": "study"}


def dealt():
    """One patient lacks x2, which the Gram alone reads, another the outcome of the logistic model."""
    held = cohorts.tables()
    held["hosp-a"][3, cohorts.NAMES.index("x2")] = np.nan
    held["hosp-b"][5, cohorts.NAMES.index("y")] = np.nan
    return held


def ran(make_federation, **statistics):
    one, wanted = make_federation(), cohorts.study(LOGISTIC, AGREEMENT, statistics=statistics)
    held = dealt()
    cohorts.put(one, wanted, held)
    return one.run(wanted), cohorts.pooled(held)


def test_analyses_over_the_studys_patients_are_answered_where_one_patient_lacks_a_value(make_federation):
    result, pooled = ran(make_federation, **TOGETHER)
    read = ["x1", "x2", "malignancy", "y", "sex"]
    whole = np.isfinite(np.column_stack([pooled[name] for name in read])).all(axis=1)
    assert whole.sum() == 4 * cohorts.PATIENTS - 2
    logistic, agreement = (item["result"] for item in result["analyses"])
    assert (result["patients"], logistic["n"], agreement["n"]) == (whole.sum(),) * 3
    x = sm.add_constant(np.column_stack([pooled["x1"], pooled["sex"]])[whole])
    fitted = sm.Logit(pooled["y"][whole], x).fit(disp=0, tol=1e-14, maxiter=50, method="newton")
    assert tables.difference([row["estimate"] for row in logistic["rows"]], fitted.params) < 1e-10
    assert (
        tables.difference(
            np.array(result["correlation"]["r"])[0][2], np.corrcoef(pooled["x1"][whole], pooled["malignancy"][whole])[0, 1]
        )
        < 1e-10
    )


def test_without_that_they_are_refused_for_the_one_patient(make_federation):
    result, pooled = ran(make_federation)
    assert result["patients"] == len(pooled["x1"]) - 1
    assert [item.get("diagnosis") for item in result["analyses"]] == ["refused", "refused"]


def test_training_and_evaluation_see_every_patient():
    """They read the label and the views, not the columns of the statistics."""
    wanted = cohorts.study(LOGISTIC, statistics=TOGETHER)
    held = cohorts.cohort("hosp-a", dealt()["hosp-a"], wanted)
    seen = pipeline.complete_cases(held, study=wanted)
    assert np.isnan(seen.table[3]).all()
    assert not np.isnan(np.delete(seen.table, 3, axis=0)).any()
    assert np.isnan(held.table).sum() == 1  # the cohort itself stays as it was
    assert columns.complete_cases(held, study=cohorts.study(LOGISTIC)) is held


def test_columns_of_every_analysis_count(make_federation):
    wanted = cohorts.study(LOGISTIC, AGREEMENT, statistics=TOGETHER)
    assert [column.name for column in wanted.together()] == ["x1", "x2", "malignancy", "y", "sex[m]"]
    assert cohorts.study(LOGISTIC).together() == ()


@pytest.mark.parametrize("said", ["both", "", None, 1])
def test_no_other_rule_is_known(said):
    plain = cohorts.study().model_dump(mode="python")
    plain["statistics"]["complete_cases"] = said
    with pytest.raises((ConfigError, ValueError)):
        Study.model_validate(plain)
