"""Declared analyses through real vaults: whoever asks for more than the study declares, or for a patient, is refused."""

import hashlib

import numpy as np
import pytest

from client import released
from common.errors import HospitalMissing
from common.query import ask
from tests import cohorts
from tests.asking import AGREEMENT, K_MEANS, KAPLAN_MEIER, LOGISTIC, ROC, SPEARMAN, Asker, asker, glm
from tests.cohorts import study
from tests.federation import HOSPITALS, kind
from tests.written import refusals, told

HOSTILE = {
    "another kernel": ask("gram", responses=["y", "x1", "sex[m]"]),
    "another column": glm(0, 0, predictors=("x2",)),
    "a column more": glm(0, 0, 0, 0, predictors=("x1", "sex[m]", "x2")),
    "another order": glm(0, 0, 0, predictors=("sex[m]", "x1")),
    "a product nobody declared": glm(0, 0, 0, predictors=("x1", "sex[m]:x1")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_query_that_the_study_does_not_imply_is_refused(name, make_federation):
    made = asker(make_federation, LOGISTIC)
    assert made.refused(HOSTILE[name]) == "E-REFUSED-PARAMETERS"


def test_a_finer_grid_than_the_studys_is_refused(make_federation):
    made = asker(make_federation, ROC)
    fine = {"grid.0": (-0.5, 0.5, 1.5), "grid.1": [at / 64 for at in range(65)]}
    assert made.refused(ask("table", responses=["y", "score"], numbers=fine)) == "E-REFUSED-PARAMETERS"


@pytest.mark.parametrize("where", [{"position": 1}, {"position": 63}, {"number": 13}, {"number": 9999}])
def test_a_query_of_no_analysis_or_beyond_its_cap_is_refused(where, make_federation):
    made = asker(make_federation, LOGISTIC)
    with pytest.raises(Exception, match=r"could not be opened|declares no such"):  # the coordinator's own code refuses too
        made.ask(glm(0, 0, 0), **where)
    assert not [1 for _, data in made.one.sent if kind(data) == "upload"]


def test_bytes_that_are_no_query_are_refused(make_federation):
    made = asker(make_federation, LOGISTIC)
    for blob in (b"", b"{}", b"\x00" * 100, glm(0, 0, 0).bytes() + b" "):
        with pytest.raises(HospitalMissing):
            made.inner.secure_sum(task="query", index=1, dimension=12, blob=blob, attempts=1)
    assert told(made.one) == {"E-REFUSED"}


ORDINAL = {"kind": "ordinal", "formula": "sex ~ x1", "queries_max": 12}
ROBUST = {"kind": "robust", "formula": "malignancy ~ x1"}


@pytest.mark.parametrize("slope", [2.0**19, 38.0], ids=["a cut", "an outlier"])
def test_slopes_of_levels_that_choose_patients_are_refused(slope, make_federation):
    dealt = cohorts.tables()
    rows = dealt["hosp-a"]
    rows[:, 0] = np.sign(np.arange(cohorts.PATIENTS) % 2 - 0.5) * 8 + np.linspace(-2.5, 2.5, cohorts.PATIENTS)
    rows[:, cohorts.NAMES.index("sex")] = rows[:, 0] > 0
    rows[0, 0] = 16  # not far enough out to dominate a combination of columns, but of the other level
    made = asker(make_federation, ORDINAL, rows=dealt)

    def levels(b):
        return ask("ordinal", responses=["sex"], predictors=["x1"], numbers={"thresholds": [0.0], "coefficients": [b]})

    made.ask(levels(0.0))
    assert made.refused(levels(slope)) == "E-REFUSED-PATIENTS"


@pytest.mark.parametrize(("basis", "slope"), [(0.01, 0.25), (0.2, 0.0)], ids=["an outlier", "leverage"])
def test_fits_that_choose_patients_are_refused(basis, slope, make_federation):
    dealt = cohorts.tables()
    rows = dealt["hosp-a"]
    rows[:, 0] = np.linspace(-10, 10, cohorts.PATIENTS)
    rows[:, -1] = 4 + rows[:, 0] / 4 + 0.08 * np.sin(np.arange(cohorts.PATIENTS))
    rows[80, -1] += 1  # within its column, but far from the line
    made = asker(make_federation, ROBUST, rows=dealt)

    def fitted(basis, slope):
        numbers = {"rows": [640.0], "mean": [0.0], "scale": [1.0], "basis": [basis], "slope": [slope], "outcome": [4.0, 1.0]}
        return ask("residuals", responses=["malignancy"], predictors=["x1"], numbers=numbers)

    made.ask(fitted(0.01, 0.0))
    made.inner.close()
    other = study(ROBUST, title="Another")
    cohorts.put(made.one, other, dealt)
    assert Asker(made.one, other, run="again").refused(fitted(basis, slope)) == "E-REFUSED-PATIENTS"


@pytest.mark.parametrize("kernel", ["absorbed", "meta"])
def test_two_honest_hospitals_do_not_add_what_would_show_one_another(kernel, make_federation):
    kind_ = {"absorbed": "fixed-site", "meta": "meta-analysis"}[kernel]
    declared_ = {"kind": kind_, "formula": "malignancy ~ x1"}
    asked = ask(kernel, responses=["malignancy"], predictors=["x1"])
    made = asker(make_federation, declared_, privacy={"colluders": 2})
    assert made.refused(asked) == "E-REFUSED-PARAMETERS"
    open_ = asker(make_federation, declared_, privacy={"colluders": 2}, policy={"site_aggregates": True})
    open_.ask(asked)


@pytest.mark.parametrize("coefficients", [(-(2.0**19) * 0.9, 2.0**20, 0), (-13, 26, 0)], ids=["a cut", "an outlier"])
def test_coefficients_that_choose_patients_are_refused(coefficients, make_federation):
    dealt = cohorts.tables()
    x1 = dealt["hosp-a"][:, 0]
    x1[:] = np.sign(np.arange(cohorts.PATIENTS) % 2 - 0.5) * 8 + 0.01 * x1
    x1[0] = 16  # not far enough out to dominate its column
    made = asker(make_federation, LOGISTIC, rows=dealt)
    made.ask(glm(0, 0, 0))
    assert made.refused(glm(*coefficients)) == "E-REFUSED-PATIENTS"


def test_the_iteration_cap_holds_across_restarts_and_runs(make_federation):
    few = {**LOGISTIC, "queries_max": 3}
    made = asker(make_federation, few)
    for at in range(3):
        made.ask(glm(0, at / 8, 0))
    made.inner.close()
    for name in HOSPITALS:
        made.one.restart(name)
    again = Asker(made.one, made.wanted, run="again")
    again.ask(glm(0, 1 / 8, 0))  # known: the same sum, nothing new
    assert again.refused(glm(0, 3 / 8, 0), number=2) == "E-REFUSED-PARAMETERS"
    record = released.read(made.one.homes["hosp-a"].state / "released.json")
    assert [len(asked) for asked in record.queries.values()] == [3]


def missing(name, *, patients, at=0):
    """Tables in which so many patients of the first hospital lack a value."""
    dealt = cohorts.tables()
    dealt["hosp-a"][at : at + patients, cohorts.NAMES.index(name)] = np.nan
    return dealt


def test_the_differencing_attack_is_refused(make_federation):
    """Two sums over complete cases that differ by one patient would give that patient's values by subtraction."""
    narrow, wide = {**LOGISTIC, "formula": "y ~ x1"}, {**LOGISTIC, "formula": "y ~ x1 + score"}
    made = asker(make_federation, narrow, wide, rows=missing("score", patients=1))
    made.ask(glm(0, 0, predictors=("x1",)))
    assert made.refused(glm(0, 0, 0, predictors=("x1", "score")), position=1) == "E-REFUSED-REPEAT"
    assert refusals(made.one, "hosp-b") == []  # nobody lacks a value there


def test_sums_that_differ_by_many_patients_are_answered(make_federation):
    narrow, wide = {**LOGISTIC, "formula": "y ~ x1"}, {**LOGISTIC, "formula": "y ~ x1 + x2"}
    made = asker(make_federation, narrow, wide, rows=missing("x2", patients=40))
    made.ask(glm(0, 0, predictors=("x1",)))
    made.ask(glm(0, 0, 0, predictors=("x1", "x2")), position=1)
    assert refusals(made.one) == []
    assert told(made.one) == set()


def test_the_covariance_attack_is_refused(make_federation):
    """The Gram and a query over columns of it, one patient apart: the difference of second moments is that patient's row."""
    made = asker(make_federation, AGREEMENT, rows=missing("x2", patients=1))
    made.gram()  # x1, x2, malignancy: without the patient
    assert made.refused(ask("gram", responses=["x1", "malignancy"])) == "E-REFUSED-REPEAT"


def test_a_gram_after_a_query_one_patient_apart_is_refused(make_federation):
    made = asker(make_federation, AGREEMENT, rows=missing("x2", patients=1))
    made.ask(ask("gram", responses=["x1", "malignancy"]))
    with pytest.raises(HospitalMissing):
        made.gram()
    assert refusals(made.one) == ["E-REFUSED-REPEAT"]


def test_overlapping_sums_over_another_roster_are_refused(make_federation):
    made = asker(make_federation, AGREEMENT)
    made.gram()
    made.one.present = lambda: frozenset(HOSPITALS[:3])
    assert made.refused(ask("gram", responses=["x1", "malignancy"])) == "E-REFUSED-REPEAT"


def small_cell():
    dealt = cohorts.tables()
    at = cohorts.NAMES.index("dead")
    dealt["hosp-a"][:, at] = 0
    dealt["hosp-a"][:2, at] = 1
    return dealt


def test_a_small_cell_is_refused_and_the_study_goes_on(make_federation):
    made = asker(make_federation, {**KAPLAN_MEIER, "group": None}, AGREEMENT, rows=small_cell())
    result = made.one.run(made.wanted)
    refused, answered = result["analyses"]
    assert (refused["diagnosis"], refused["term"], refused["sums"]) == ("refused", "hosp-a", 0)
    assert "result" not in refused
    assert answered["result"]["n"] == 4 * cohorts.PATIENTS
    assert answered["hospitals"] == list(HOSPITALS)  # the hospital stays in the run
    assert result["training"]["releases"] == 1
    assert refusals(made.one) == ["E-REFUSED-PATIENTS"]
    assert told(made.one) == {"E-REFUSED"}


def test_a_dummy_with_few_patients_is_refused_in_the_gram(make_federation):
    dealt = cohorts.tables()
    at = cohorts.NAMES.index("sex")
    dealt["hosp-a"][:, at] = 0
    dealt["hosp-a"][:4, at] = 1
    made = asker(make_federation, rows=dealt, statistics={"models": ["malignancy ~ x1 + sex"]})
    with pytest.raises(HospitalMissing):
        made.gram()
    assert refusals(made.one) == ["E-REFUSED-PATIENTS"]
    assert told(made.one) == {"E-REFUSED"}


def test_a_product_of_binary_columns_with_few_patients_is_refused_in_the_gram(make_federation):
    dealt = cohorts.tables()
    y, sex = cohorts.NAMES.index("y"), cohorts.NAMES.index("sex")
    rows = dealt["hosp-a"]
    rows[:, sex] = rows[:, y]
    rows[:2, sex] = 1 - rows[:2, sex]  # each column has many of both; two patients are off the diagonal
    made = asker(make_federation, rows=dealt, statistics={"models": ["malignancy ~ y + sex"]})
    with pytest.raises(HospitalMissing):
        made.gram()
    assert refusals(made.one) == ["E-REFUSED-PATIENTS"]


def test_a_patient_who_dominates_a_column_is_refused(make_federation):
    dealt = cohorts.tables()
    dealt["hosp-a"][:, 0] = 0.001 * np.arange(cohorts.PATIENTS)
    dealt["hosp-a"][0, 0] = 16
    made = asker(make_federation, rows=dealt)
    with pytest.raises(HospitalMissing):
        made.gram()
    assert refusals(made.one) == ["E-REFUSED-PATIENTS"]


def test_a_fit_with_too_many_coefficients_for_its_patients_is_refused(make_federation):
    dealt = {name: rows[:40] for name, rows in cohorts.tables().items()}
    wide = {**LOGISTIC, "formula": "y ~ x1 + x2 + score + malignancy"}
    made = asker(make_federation, wide, rows=dealt)
    asked = glm(0, 0, 0, 0, 0, predictors=("x1", "x2", "score", "malignancy"))
    assert made.refused(asked) == "E-REFUSED-PATIENTS"


def test_a_hospitals_own_aggregates_need_its_permission(make_federation):
    mixed = {"kind": "mixed", "formula": "malignancy ~ x1", "queries_max": 80}
    shy = asker(make_federation, mixed).one
    wanted = study(mixed)
    assert shy.run(wanted)["analyses"][0]["diagnosis"] == "refused"
    few = {**mixed, "formula": "malignancy ~ x2", "queries_max": 4}
    made = asker(make_federation, mixed, few, policy={"site_aggregates": True})
    whole, cut = (one["result"] for one in made.one.run(made.wanted)["analyses"])
    assert whole["hospitals"] == 4
    assert whole["icc_low"] <= whole["icc"] <= whole["icc_high"]
    assert (cut["icc_low"], cut["icc_diagnosis"]) == (None, "more sums than the study allows")  # the estimate stands
    assert cut["icc"] >= 0


def lloyd(cut):
    """Two clusters, apart at `cut` in x1."""
    numbers = {"centre": [0.0] * 2, "scale": [1.0] * 2, "centres": [cut - 1, 0, cut + 1, 0]}
    return ask("lloyd", responses=["x1", "x2"], numbers=numbers)


def test_clusters_that_a_query_chooses_need_the_hospitals_permission(make_federation):
    made = asker(make_federation, K_MEANS)
    assert made.refused(lloyd(0.0)) == "E-REFUSED-PARAMETERS"


def test_the_iteration_cap_holds_across_titles_of_a_study(make_federation):
    few = {**K_MEANS, "queries_max": 2}
    made = asker(make_federation, few, policy={"cluster_sums": True})
    made.ask(lloyd(0.0))
    made.ask(lloyd(0.5))
    made.inner.close()
    other = study({**few, "variables": ["x2", "x1"]}, few, title="Another")
    cohorts.put(made.one, other, cohorts.tables())
    again = Asker(made.one, other, run="again")
    again.ask(lloyd(0.5), position=1)
    assert again.refused(lloyd(1.0), position=1) == "E-REFUSED-PARAMETERS"


def test_a_second_run_of_the_same_study_gives_the_same_results(make_federation):
    made = asker(make_federation, LOGISTIC, SPEARMAN)
    first, second = (made.one.run(made.wanted)["analyses"] for _ in range(2))
    assert first == second
    assert "result" in first[0]


def test_an_analysis_that_needs_more_sums_than_its_study_allows_says_so(make_federation):
    made = asker(make_federation, {**LOGISTIC, "queries_max": 2})
    (item,) = made.one.run(made.wanted)["analyses"]
    assert (item["diagnosis"], item["sums"]) == ("more sums than the study allows", 2)


def test_a_hospital_that_allows_no_more_exact_sums_refuses_the_next_analysis(make_federation):
    made = asker(make_federation, LOGISTIC, ROC, policy={"exact_releases_max": 2})
    first, second = made.one.run(made.wanted)["analyses"]
    assert "result" in first
    assert second["diagnosis"] == "refused"
    assert refusals(made.one)[0] == "E-REFUSED-EXACT"


def test_a_damaged_record_of_releases_stops_exact_sums(make_federation):
    made = asker(make_federation, LOGISTIC)
    made.ask(glm(0, 0, 0))
    (made.one.homes["hosp-a"].state / "released.json").write_bytes(b'{"sets": {}}')
    with pytest.raises(HospitalMissing):
        made.ask(glm(0, 0.5, 0))
    assert refusals(made.one)[-1] == "E-AUDIT-INTEGRITY"


def test_the_record_of_releases_names_no_patient(make_federation):
    made = asker(make_federation, LOGISTIC)
    made.ask(glm(0, 0, 0))
    home = made.one.homes["hosp-a"]
    text = (home.state / "released.json").read_text()
    assert (home.state / "released.json").stat().st_mode & 0o077 == 0
    known = [hashlib.sha256(f"hosp-a{at}".encode()).hexdigest()[:16] for at in range(cohorts.PATIENTS)]
    assert not [one for one in known if one in text]
