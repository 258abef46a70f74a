"""A study over harmonised features through real vaults: what pooled ComBat and statsmodels give; hostile coefficients."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from pydantic import ValidationError

from client import disclosure, exact, pipeline
from client import harmonise as at_home
from client.kernels.answer import answer
from client.kernels.rows import Rows, Seat
from common import analyses, canonical, harmonisation, left_out
from common import study as studies
from common.announcement import Announcement, mechanism_for
from common.errors import AlreadyAnswered, BadQuery, DataError, HospitalMissing, OutsidePolicy
from common.harmonisation import Harmonisation
from common.query import ask
from server.infer import declared
from tests import cohorts, federation
from tests.combat import COMBAT, FEATURES, LOGISTIC, MODEL, NAMES, QUANTILES, VARIABLES, study, table, truth
from tests.federation import HOSPITALS
from tests.policies import policy
from tests.tables import cohort, difference
from tests.written import entries

LINEAR = [{"kind": kind, "formula": "malignancy ~ f0 + age"} for kind in ("robust", "fixed-site")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, phantom_scans, cohort_cache):
    one = federation.Federation(tmp_path_factory.mktemp("harmonised") / "f", phantom_scans, cache=cohort_cache)
    wanted, dealt = study(LOGISTIC, COMBAT, QUANTILES, *LINEAR), {name: table(at) for at, name in enumerate(HOSPITALS)}
    cohorts.put(one, wanted, dealt)
    folder = one.folder / "harmonised"
    result = one.go_on(wanted, run="harmonised", folder=folder)
    yield one, wanted, folder, result, truth(dealt)
    one.close()


def test_correlations_of_harmonised_features_equal_those_of_pooled_combat(ran):
    found, frame = ran[3]["correlation"], ran[4]
    r = np.corrcoef(frame[[*FEATURES, "malignancy"]].to_numpy(), rowvar=False)
    assert np.abs(np.array(found["r"]) - r).max() <= 1e-10
    assert found["n"] == 320


def test_models_of_harmonised_features_equal_statsmodels_after_pooled_combat(ran):
    theirs = smf.ols(MODEL, ran[4]).fit(method="qr")
    (found,) = ran[3]["linear"]["models"]
    rows = {row["term"].replace("(intercept)", "Intercept").replace("[", "[T."): row for row in found["fit"]["rows"]}
    for name, row in rows.items():
        assert difference(row["estimate"], theirs.params[name]) <= 1e-10, name
        assert difference(row["standard_error"], theirs.bse[name]) <= 1e-10, name
        assert difference(row["p"], theirs.pvalues[name]) <= 1e-10, name
    second = sm.stats.anova_lm(theirs, typ=2)
    for row in found["fit"] and found["anova"]["II"]["rows"]:
        assert difference(row["f"], second.loc[row["term"], "F"]) <= 1e-10


def test_a_declared_analysis_of_a_harmonised_feature_equals_statsmodels_after_pooled_combat(ran):
    frame, found = ran[4], ran[3]["analyses"][0]["result"]
    fitted = sm.Logit(frame["y"], sm.add_constant(frame[["f0", "f2", "age"]])).fit(
        disp=0, tol=1e-14, maxiter=50, method="newton"
    )
    assert difference([row["estimate"] for row in found["rows"]], fitted.params) <= 1e-10
    assert difference([row["standard_error"] for row in found["rows"]], fitted.bse) <= 1e-10


def test_robust_errors_and_absorbed_hospitals_of_a_harmonised_feature_equal_statsmodels_after_pooled_combat(ran):
    frame, (robust, absorbed) = ran[4], ran[3]["analyses"][3:]
    x, of = frame[["f0", "age"]].to_numpy(), np.repeat(np.arange(4), 80)
    hc3 = sm.OLS(frame["malignancy"], sm.add_constant(x)).fit(method="qr").get_robustcov_results("HC3", use_t=True)
    assert difference([row["standard_error"] for row in robust["result"]["rows"]], hc3.bse) <= 1e-10
    assert difference([row["p"] for row in robust["result"]["rows"]], hc3.pvalues) <= 1e-10
    fixed = sm.OLS(frame["malignancy"], np.column_stack([x, np.eye(4)[of]])).fit(method="qr")
    assert difference([row["estimate"] for row in absorbed["result"]["rows"]], fixed.params[:2]) <= 1e-10
    assert difference([row["standard_error"] for row in absorbed["result"]["rows"]], fixed.bse[:2]) <= 1e-10


def test_the_harmonisation_comes_first_and_keeps_its_place_in_the_result(ran):
    _, wanted, _, result, frame = ran
    assert [item["kind"] for item in result["analyses"]][:3] == ["logistic", "combat", "quantiles"]
    assert [event["task"] for event in result["rounds"]][:2] == ["query", "gram"]
    assert result["rounds"][0]["index"] == analyses.index(1, number=1)
    assert result["analyses"][1]["sums"] == 1
    assert result["analyses"][2]["result"]["n"] == len(frame)
    assert wanted.harmonised == 1
    assert studies.parse(wanted.canonical_bytes()) == wanted


def test_the_report_says_that_the_features_are_harmonised(ran):
    page = (ran[2] / "report.html").read_text()
    assert "applied by each hospital to its own rows" in page
    assert "0 left out as incomplete" in page


def test_a_killed_coordinator_goes_on_with_the_same_coefficients(ran):
    one, wanted, folder, result, _ = ran
    for name in HOSPITALS:
        one.restart(name)
    before = len(entries(one, kind="reserve"))
    again = one.go_on(wanted, run="harmonised", folder=folder)
    assert again["correlation"] == result["correlation"]
    assert len(entries(one, kind="reserve")) == before
    second = one.run(wanted)  # a run of its own: the same sums, the same coefficients, no new question
    assert second["analyses"][0]["result"]["rows"] == result["analyses"][0]["result"]["rows"]


def test_other_coefficients_are_refused_by_every_hospital_and_nothing_leaves(ran):
    one, wanted, _, result, _ = ran
    found = result["analyses"][1]["result"]
    honest = Harmonisation(
        features=FEATURES, covariates=("age", "malignancy"), n=found["n"], effects=np.array(found["effects"]),
        grand_means=np.array(found["grand_means"]), deviations=np.array(found["deviations"]),
    )  # fmt: skip
    lying = replace(honest, deviations=honest.deviations * [1, 1, 1, 2])
    second = federation.Coordinator(one, wanted, run="lying")
    second.set_up()
    before = len(entries(one, kind="release"))
    with pytest.raises(HospitalMissing):
        second.secure_sum(
            task="gram", index=0, dimension=left_out.dimension(len(wanted.columns())), attempts=1,
            blob=harmonisation.pack(b"", coefficients=lying.bytes()),
        )  # fmt: skip
    assert len(entries(one, kind="release")) == before
    assert {entries(one, name, "refuse")[-1]["code"] for name in HOSPITALS} == {"E-REFUSED-REPEAT"}


@pytest.mark.parametrize(
    "blob", [b"", b"junk", harmonisation.pack(b"", coefficients=b"{}"), harmonisation.pack(b"x", coefficients=b"")]
)
def test_a_gram_without_good_coefficients_is_refused(make_federation, blob):
    one, wanted = make_federation(), study()
    cohorts.put(one, wanted, {name: table(at, 40) for at, name in enumerate(HOSPITALS)})
    lying = federation.Coordinator(one, wanted, run="none")
    lying.set_up()
    with pytest.raises(HospitalMissing):
        lying.secure_sum(task="gram", index=0, dimension=left_out.dimension(len(wanted.columns())), blob=blob, attempts=1)
    assert not entries(one, kind="release")
    assert not (one.homes["hosp-a"].state / "exact.json").exists()


def held(hospital=0, shift=0.0):
    frame = pd.DataFrame(table(hospital), columns=NAMES)
    frame["sex"] = np.where(frame["sex"] == 1, "m", "f")
    frame[list(FEATURES)] += shift
    return cohort(frame, held=study())


def coefficients(**changes):
    given = {"effects": np.zeros((2, 4)), "grand_means": np.zeros(4), "deviations": np.full(4, 5.0)}
    return Harmonisation(features=FEATURES, covariates=("age", "malignancy"), n=320, **(given | changes)).bytes()


def test_no_row_enters_or_leaves_by_the_coefficients():
    one = held()
    for changes in ({}, {"grand_means": np.full(4, 3.0)}, {"deviations": np.array([1.0, 2, 3, 4])}):
        made = at_home.cohort(one, study=study(), coefficients=coefficients(**changes))
        assert not np.isnan(made.table).any()
    for hostile in (
        {"grand_means": np.full(4, 250.0)},
        {"effects": np.full((2, 4), 2.0**60)},
        {"deviations": np.full(4, 2.0**60)},
    ):
        with pytest.raises(DataError):
            at_home.cohort(one, study=study(), coefficients=coefficients(**hostile))


def test_a_patient_outside_the_gram_has_no_harmonised_feature():
    one = held()
    gaps = one.table.copy()
    gaps[3, NAMES.index("malignancy")] = np.nan
    gaps[4, NAMES.index("f3")] = np.nan
    gaps[5, NAMES.index("y")] = np.nan  # not a variable of the Gram
    made = at_home.cohort(replace(one, table=gaps), study=study(), coefficients=coefficients()).table[:, :4]
    assert np.flatnonzero(np.isnan(made).any(axis=1)).tolist() == [3, 4]
    assert np.isnan(made[[3, 4]]).all()


def sent_for_harmonisation(one):
    wanted = study()
    asked = next(declared.start(wanted, position=1))
    index = analyses.index(1, number=1)
    announced = Announcement(
        run="r", study=wanted.hash(), roster="0" * 64, round=1, hospitals=HOSPITALS, task="query", index=index, dimension=25,
        blob_sha256="0" * 64, mechanism=mechanism_for(wanted, task="query", hospitals=4, dimension=25, index=index),
    )  # fmt: skip
    rows = pipeline.entering(announced, blob=asked.bytes(), study=wanted, cohort=one).rows
    return answer(rows, query=asked).values  # noqa: PD011


def test_a_constant_added_to_one_hospital_changes_no_centred_number_that_it_sends():
    before, after = sent_for_harmonisation(held()), sent_for_harmonisation(held(shift=2.5))
    counts_and_sums = 1 + 2 + 4
    assert not np.array_equal(before[3:counts_and_sums], after[3:counts_and_sums])  # the pooled sums, for the grand mean
    assert difference(after[counts_and_sums:], before[counts_and_sums:]) <= 1e-11


def test_two_honest_hospitals_do_not_add_scatters_within_which_would_show_their_means():
    rows = Rows(names=("f0", "f1", "age"), values=table(0)[:, [0, 1, 4]], lower=(-64.0, -64.0, 0.0), upper=(64.0, 64.0, 128.0))
    asked = ask("within", responses=["f0", "f1"], predictors=["age"])
    rule = policy()
    disclosure.check_query(rule, asked=asked, rows=rows, seat=Seat(at=0, of=4, honest=3, shows=False))
    with pytest.raises(OutsidePolicy):
        disclosure.check_query(rule, asked=asked, rows=rows, seat=Seat(at=0, of=4, honest=2, shows=False))


def test_a_harmonised_column_stands_under_another_name_in_the_record_of_exact_sums():
    harmonised, plain = study(), study(QUANTILES)
    announced = [
        Announcement(
            run="r", study=one.hash(), roster="0" * 64, round=1, hospitals=HOSPITALS, task="gram", index=0, dimension=1,
            blob_sha256="0" * 64, mechanism=mechanism_for(one, task="gram", hospitals=4, dimension=1),
        )
        for one in (harmonised, plain)
    ]  # fmt: skip
    one = held()
    changed = at_home.cohort(one, study=harmonised, coefficients=coefficients())
    first = pipeline.entering(announced[0], blob=b"", study=harmonised, cohort=changed).questions
    second = pipeline.entering(announced[1], blob=b"", study=plain, cohort=one).questions
    shared = set(first) & set(second)
    unharmonised = 4  # malignancy, sex, age, and ... their pairs
    assert 0 < len(shared) < unharmonised * (unharmonised + 1)
    assert all(first[question] == second[question] for question in shared)


def test_one_set_of_coefficients_is_taken_ever_whatever_the_order_of_the_features(tmp_path):
    record, wanted = tmp_path / "exact.json", study()
    asked = at_home.question(wanted, coefficients=coefficients())
    exact.save(record, exact.check(record, questions=asked, roster=HOSPITALS, secret=b"s"))
    assert exact.check(record, questions=asked, roster=HOSPITALS, secret=b"s")
    other = at_home.question(wanted, coefficients=coefficients(grand_means=np.ones(4)))
    turned = study({**COMBAT, "features": list(FEATURES[::-1])})
    given = replace(
        harmonisation.parse(coefficients(), features=FEATURES, covariates=("age", "malignancy")), features=FEATURES[::-1]
    )
    for again in (other, at_home.question(turned, coefficients=given.bytes())):
        assert set(again) == set(asked)
        with pytest.raises(AlreadyAnswered, match="over other rows"):
            exact.check(record, questions=again, roster=HOSPITALS, secret=b"s")


def _plain():
    return canonical.decode(coefficients())


@pytest.mark.parametrize(
    "change",
    [
        {"n": "320"},
        {"features": ["f0", "f1", "f3", "f2"]},
        {"covariates": []},
        {"effects": []},
        {"grand_means": ["0x1p0"] * 3},
        {"grand_means": ["nan"] * 4},
        {"grand_means": ["0x1p61"] * 4},
        {"deviations": ["0x0.0p+0"] * 4},
        {"deviations": ["-0x1.0000000000000p+0"] * 4},
        {"deviations": [1, 2, 3, 4]},
        {"more": 1},
    ],
)
def test_coefficients_that_are_not_the_studys_are_refused(change):
    with pytest.raises(BadQuery):
        at_home.question(study(), coefficients=canonical.encode(_plain() | change))
    for junk in (b"", b"{}", b"[]", b"\xff", coefficients() + b" "):
        with pytest.raises(BadQuery):
            at_home.question(study(), coefficients=junk)
    with pytest.raises(OutsidePolicy):
        at_home.question(study(QUANTILES), coefficients=coefficients())


NOISE = {
    "noise_multiplier": Decimal(4), "clip_norm": Decimal(2), "delta": Decimal("1e-6"), "patients_max": 1000, "colluders": 1,
    "rounds_void_allowed": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"declared": [COMBAT, COMBAT]}, "two are to be applied"),
        ({"declared": [{**COMBAT, "features": ["f0"]}]}, "it has one"),
        ({"declared": [{**COMBAT, "features": ["f0", "malignancy"], "covariates": []}]}, "label of training"),
        ({"declared": [COMBAT], "statistics": {"privacy": NOISE}}, "noise does not hide"),
        ({"declared": [{**COMBAT, "features": ["f0", "age"]}]}, "twice"),
        ({"declared": [{**COMBAT, "features": ["f0", "sex"]}]}, "sex has levels"),
        ({"declared": [{**COMBAT, "features": ["f0", "y"]}, LOGISTIC]}, "y is not 0 or 1"),
    ],
)
def test_a_harmonisation_that_cannot_be_applied_is_refused_with_its_reason(parts, says):
    with pytest.raises(ValidationError, match=says):
        study(*parts["declared"], **{key: value for key, value in parts.items() if key != "declared"})


def test_a_harmonised_variable_cannot_be_transformed():
    positive = {"name": "f0", "source": "image", "unit": "mm", "lower": Decimal(1), "upper": Decimal(64), "transforms": ["log"]}
    with pytest.raises(ValidationError, match="would be transformed"):
        study(COMBAT, variables=[positive, *VARIABLES[1:]])
