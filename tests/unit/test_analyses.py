"""Declared analyses through real vaults: what comes out is what the pooled table gives; who asks for more is refused."""

import json

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from common import analyses
from server.infer import declared
from tests import cohorts, federation, pooling
from tests.asking import AGREEMENT, COX, K_MEANS, KAPLAN_MEIER, LOGISTIC, ROC, SPEARMAN
from tests.cohorts import study
from tests.federation import HOSPITALS


@pytest.fixture(scope="module")
def ran(tmp_path_factory, phantom_scans, cohort_cache):
    """One study with every kind, run once; the hospitals keep the floors that `init` writes, but for the smallest cell."""
    one = federation.Federation(
        tmp_path_factory.mktemp("analyses") / "f", phantom_scans, cache=cohort_cache, policy={"cluster_sums": True}
    )
    wanted = study(LOGISTIC, ROC, KAPLAN_MEIER, COX, K_MEANS, SPEARMAN, AGREEMENT)
    dealt = cohorts.tables()
    cohorts.put(one, wanted, dealt)
    result = one.run(wanted)
    yield one, wanted, result, cohorts.pooled(dealt)
    one.close()


def results(ran):
    return {item["kind"]: item.get("result", item) for item in ran[2]["analyses"]}


def close(ours, theirs, rel=1e-10):
    assert np.allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=rel, atol=1e-13)


def test_logistic_regression_through_vaults_equals_pooled_statsmodels(ran):
    table, found = ran[3], results(ran)["logistic"]
    x = sm.add_constant(np.column_stack([table["x1"], table["sex"]]))
    fitted = sm.Logit(table["y"], x).fit(disp=0, tol=1e-14, maxiter=50, method="newton")
    close([row["estimate"] for row in found["rows"]], fitted.params)
    close([row["standard_error"] for row in found["rows"]], fitted.bse)
    close([row["p"] for row in found["rows"]], fitted.pvalues)
    assert [row["term"] for row in found["rows"]] == ["(intercept)", "x1", "sex[m]"]


def test_roc_through_vaults_equals_the_pooled_rank_statistic(ran):
    table, found = ran[3], results(ran)["roc"]
    positive, negative = table["score"][table["y"] == 1], table["score"][table["y"] == 0]
    close(found["auc"], stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def test_kaplan_meier_through_vaults_equals_pooled_statsmodels(ran):
    table, found = ran[3], results(ran)["kaplan-meier"]
    for level, curve in enumerate(found["curves"]):
        mine = table["sex"] == level
        theirs = sm.SurvfuncRight(table["time"][mine], table["dead"][mine])
        close([step["survival"] for step in curve["steps"]], theirs.surv_prob)
        close([step["standard_error"] for step in curve["steps"]], theirs.surv_prob_se)
    close(found["chi2"], sm.duration.survdiff(table["time"], table["dead"], table["sex"])[0])


def test_cox_regression_through_vaults_equals_pooled_statsmodels(ran):
    table, found = ran[3], results(ran)["cox"]
    fitted = sm.PHReg(table["time"], table["x1"][:, None], status=table["dead"], ties="efron").fit(disp=0)
    close([row["estimate"] for row in found["rows"]], fitted.params, rel=1e-8)  # statsmodels stops there
    close([row["standard_error"] for row in found["rows"]], fitted.bse, rel=1e-8)


def test_k_means_through_vaults_is_lloyds_fixed_point_on_the_pooled_table(ran):
    table, found = ran[3], results(ran)["k-means"]
    points = np.column_stack([table["x1"], table["x2"]])
    centres, scale = np.array(found["centres"]), points.std(axis=0)
    nearest = (((points[:, None] - centres) / scale) ** 2).sum(axis=2).argmin(axis=1)
    assert np.bincount(nearest).tolist() == found["members"]
    close(centres, [points[nearest == k].mean(axis=0) for k in range(found["k"])])


def test_rank_correlation_through_vaults_equals_pooled_scipy(ran):
    table, found = ran[3], results(ran)["spearman"]
    theirs = stats.spearmanr(table["score"], table["time"])
    close([found["r"][0][1], found["p"][0][1]], [theirs.statistic, theirs.pvalue])


def test_every_analysis_is_bit_for_bit_that_of_one_pooled_hospital(ran):
    _, wanted, result, table = ran
    values = np.column_stack(list(table.values()))
    values = np.column_stack([values, table["sex"]])
    low = [*(float(v.lower) for v in wanted.variables), 0.0]
    high = [*(float(v.upper) for v in wanted.variables), 1.0]
    rows = pooling.Rows(names=(*table, "sex[m]"), values=values, lower=tuple(low), upper=tuple(high))
    for position, item in enumerate(result["analyses"]):
        alone = pooling.drive(declared.start(wanted, position=position), [rows]).plain()
        assert json.loads(json.dumps(alone)) == item["result"], item["kind"]


def test_each_result_says_how_it_was_made(ran):
    _, wanted, result, _ = ran
    for position, item in enumerate(result["analyses"]):
        assert item["statistic"] == analyses.statistic(wanted.statistics.analyses[position], position=position)
        assert (item["mechanism"], item["epsilon"], item["hospitals"]) == ("none", "infinite", list(HOSPITALS))
        left = [event for event in result["exact_releases"] if event["statistic"] == item["statistic"]]
        assert 1 <= len(left) == item["sums"] <= analyses.queries_most(wanted.statistics.analyses[position])


def test_the_sums_of_an_analysis_count_once_against_the_hospitals_cap(ran):
    one, wanted, _, _ = ran
    for vault in one.vaults.values():
        counted, once = vault.ledger.exact_counted()
        assert counted == len(wanted.statistics.analyses) + 2  # the Gram and the evaluation
        assert len(once) == len(wanted.statistics.analyses) + 1  # and the Gram
