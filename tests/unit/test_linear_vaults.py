"""Robust errors, absorbed hospitals and meta-analysis through real vaults: four hospitals, made up and real."""

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from server import analyse
from tests import cohorts, federation, tables
from tests.federation import HOSPITALS
from tests.tables import difference


def analysed(one, wanted, run="analyses"):
    """Ask the declared analyses alone; return their results and the statistics under which sums left."""
    inner = federation.Coordinator(one, wanted, run=run)
    inner.set_up()
    found = analyse.analyse(inner.rounds, study=wanted)
    return found, [event["mechanism"]["statistic"] for event in inner.journal.rounds().values()]


def declared(formula):
    return [{"kind": kind, "formula": formula} for kind in ("robust", "fixed-site", "meta-analysis", "forest")]


def shows(one, name):
    """Let one hospital's policy allow its own aggregates."""
    file = one.homes[name].site_file
    file.write_text(file.read_text().replace("site_aggregates = false", "site_aggregates = true"))


def compare(found, y, x, of):
    """The largest relative differences from statsmodels on the pooled rows, by analysis."""
    told = {}
    plain = sm.OLS(y, sm.add_constant(x)).fit(method="qr")
    result = {item["kind"]: item["result"] for item in found}
    for key, kind, more in (("rows", "HC3", {}), ("clustered", "cluster", {"groups": of})):
        theirs = plain.get_robustcov_results(kind, use_t=True, **more)
        ours = result["robust"][key]
        wanted = {"estimate": theirs.params, "standard_error": theirs.bse, "t": theirs.tvalues, "p": theirs.pvalues}
        told[kind] = max(difference([row[name] for row in ours], values) for name, values in wanted.items())
    p = x.shape[1]
    theirs = sm.OLS(y, np.column_stack([x, np.eye(len(np.unique(of)))[of]])).fit(method="qr")
    wanted = {"estimate": theirs.params, "standard_error": theirs.bse, "t": theirs.tvalues, "p": theirs.pvalues}
    told["absorbed"] = max(
        difference([row[name] for row in result["fixed-site"]["rows"]], values[:p]) for name, values in wanted.items()
    )
    own = [sm.OLS(y[of == h], sm.add_constant(x[of == h])).fit(method="qr") for h in np.unique(of)]
    told["meta"] = 0.0
    for at, spread in enumerate(result["meta-analysis"]["heterogeneity"]):
        effects = np.array([one.params[at + 1] for one in own])
        theirs = combine_effects(effects, np.array([one.bse[at + 1] ** 2 for one in own]), method_re="dl", use_t=False)
        rows = [row for row in result["meta-analysis"]["rows"] if row["term"] == spread["term"]]
        told["meta"] = max(told["meta"], difference(spread["q"], theirs.q))
        told["meta"] = max(
            told["meta"],
            difference([rows[0]["estimate"], rows[0]["standard_error"]], [theirs.mean_effect_fe, theirs.sd_eff_w_fe]),
        )
        if theirs.q > len(own) - 1:  # statsmodels does not keep tau squared from being negative
            wanted = [theirs.tau2, theirs.i2, theirs.mean_effect_re, theirs.sd_eff_w_re, theirs.sd_eff_w_re_hksj]
            ours = [spread["tau_squared"], spread["i_squared"], rows[1]["estimate"]]
            told["meta"] = max(told["meta"], difference([*ours, rows[1]["standard_error"], rows[2]["standard_error"]], wanted))
    return told, own


@pytest.fixture(scope="module")
def ran(tmp_path_factory, phantom_scans, cohort_cache):
    one = federation.Federation(
        tmp_path_factory.mktemp("linear") / "f", phantom_scans, cache=cohort_cache, policy={"colluders_min": 0}
    )
    shows(one, "hosp-b")
    wanted = cohorts.study(*declared("malignancy ~ x1 + sex"), privacy={"colluders": 0})
    dealt = cohorts.tables()
    for at, rows in enumerate(dealt.values()):
        rows[:, -1] = np.clip(rows[:, -1] + 0.08 * at * rows[:, 0] + 0.3 * at, 0, 8)
    cohorts.put(one, wanted, dealt)
    found, statistics = analysed(one, wanted)
    yield found, statistics, dealt
    one.close()


def test_linear_analyses_through_vaults_equal_pooled_statsmodels(ran):
    found, _, dealt = ran
    held = cohorts.pooled(dealt)
    of = np.repeat(np.arange(4), cohorts.PATIENTS)
    told, _ = compare(found, held["malignancy"], np.column_stack([held["x1"], held["sex"]]), of)
    assert max(told.values()) <= 1e-10, told


def test_terms_p_values_are_adjusted_for_their_number(ran):
    found, _, _ = ran
    for item in found:
        rows = item["result"]["rows"]
        for method in {one["method"] for one in item["adjusted"]}:
            terms = [row for row in rows if row.get("method", "") == method and row["term"] != "(intercept)"]
            ours = [one for one in item["adjusted"] if one["method"] == method]
            for key, kind in (("p_holm", "holm"), ("p_bh", "fdr_bh")):
                assert (
                    difference([one[key] for one in ours], multipletests([row["p"] for row in terms], method=kind)[1]) <= 1e-12
                )
    assert [len(item["adjusted"]) for item in found] == [2, 2, 6, 6]


def test_a_forest_has_the_rows_of_hospitals_that_allow_it_and_a_statistic_of_its_own(ran):
    found, statistics, dealt = ran
    forest = found[3]["result"]
    assert {row["place"] for row in forest["by_hospital"]} == {HOSPITALS.index("hosp-b")}
    rows = dealt["hosp-b"]
    own = sm.OLS(rows[:, -1], sm.add_constant(rows[:, [0, 6]])).fit(method="qr")
    assert difference([row["estimate"] for row in forest["by_hospital"]], own.params[1:]) <= 1e-10
    assert difference([row["standard_error"] for row in forest["by_hospital"]], own.bse[1:]) <= 1e-10
    assert {key: forest[key] for key in ("rows", "heterogeneity")} == {
        key: found[2]["result"][key] for key in ("rows", "heterogeneity")
    }
    assert statistics.count("analysis-4-forest") == found[3]["sums"] == 3
    assert [item["sums"] for item in found] == [2, 1, 2, 3]


def test_three_honest_hospitals_keep_random_effects_to_themselves(make_federation):
    one = make_federation()
    wanted = cohorts.study({"kind": "meta-analysis", "formula": "malignancy ~ x1"})
    cohorts.put(one, wanted, cohorts.tables())
    (item,), _ = analysed(one, wanted)
    assert [row["method"] for row in item["result"]["rows"]] == ["equal effects"]
    assert item["result"]["random_absent"].startswith("refused")
    assert item["sums"] == 1


def test_linear_analyses_of_four_heart_hospitals_equal_pooled_statsmodels(make_federation):
    frame, hospital = tables.heart()
    base = tables.study(tables.HEART_NUMBERS, factors=tables.HEART_FACTORS, analyses=declared("rate ~ age + pressure"))
    wanted = base.model_copy(update={"privacy": base.privacy.model_copy(update={"colluders": 0})})
    one = make_federation(colluders_min=0)
    parts = {name: frame[hospital == real] for name, real in zip(HOSPITALS, sorted(hospital.unique()), strict=True)}
    cohorts.put(one, wanted, {name: tables.cohort(part, held=wanted).table for name, part in parts.items()})
    found, _ = analysed(one, wanted)
    rows = np.concatenate([part[["rate", "age", "pressure"]].dropna().to_numpy(float) for part in parts.values()])
    of = np.repeat(np.arange(4), [len(part[["rate", "age", "pressure"]].dropna()) for part in parts.values()])
    told, _ = compare(found, rows[:, 0], rows[:, 1:], of)
    assert max(told.values()) <= 1e-10, told
    assert found[0]["result"]["n"] == len(rows)


def test_an_analysis_tells_who_is_left_out_but_no_small_number(make_federation):
    one = make_federation()
    wanted = cohorts.study({"kind": "robust", "formula": "malignancy ~ x1"})
    dealt = cohorts.tables()
    for name, column, patients in (("hosp-a", 0, 12), ("hosp-b", 7, 7), ("hosp-c", 0, 3), ("hosp-d", 1, 30)):
        dealt[name][:patients, column] = np.nan
    cohorts.put(one, wanted, dealt)
    (item,), _ = analysed(one, wanted)
    assert (item["left_out"], item["sums"]) == ({"patients": 19, "untold": 1}, 2)
    assert item["result"]["n"] == 4 * cohorts.PATIENTS - 22
