"""ROC, Wilson, Youden and calibration from histograms equal those of the pooled scores where the grid holds them."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from common.errors import NotEstimable
from server.infer import roc
from tests.pooling import drive, rows_of, split

BINS = 64
GRID = tuple((np.arange(BINS + 1) / BINS).tolist())


def scores(n: int = 300, *, quantised: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    y = (rng.random(n) < 0.4).astype(float)
    risk = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.2 * y - 0.7)))
    return y, ((np.floor(risk * BINS) + 0.5) / BINS if quantised else risk)


def run(y: np.ndarray, score: np.ndarray, **spec: object) -> roc.Roc:
    rows = rows_of({"y": y, "score": score})
    return drive(roc.fit(roc.Spec(outcome="y", score="score", grid=spec.get("grid", GRID))), split(rows))


def central(y: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """AUC and DeLong's error from all pairs."""
    a, b = score[y == 1][:, None], score[y == 0][None, :]
    wins = (a > b) + 0.5 * (a == b)
    return wins.mean(), np.sqrt(wins.mean(axis=1).var(ddof=1) / len(a) + wins.mean(axis=0).var(ddof=1) / b.size)


def test_auc_and_delong_equal_all_pairs() -> None:
    y, score = scores()
    result = run(y, score)
    assert np.allclose([result.auc, result.auc_error], central(y, score), rtol=1e-10)
    assert (result.n_positive, result.n_negative) == (int(y.sum()), int((1 - y).sum()))


def test_unbinned_scores_stay_within_the_stated_bound() -> None:
    y, score = scores(quantised=False)
    result = run(y, score)
    assert 0 < abs(result.auc - central(y, score)[0]) <= result.auc_off_most


def test_sensitivity_and_youden_equal_those_of_the_rows() -> None:
    y, score = scores()
    result = run(y, score)
    for point in result.points:
        hit, spared = int(((score >= point.threshold) & (y == 1)).sum()), int(((score < point.threshold) & (y == 0)).sum())
        for proportion, count, n in ((point.sensitivity, hit, y.sum()), (point.specificity, spared, (1 - y).sum())):
            low, high = proportion_confint(count, n, method="wilson")
            assert np.isclose(proportion.estimate, count / n, rtol=1e-12, atol=0)
            assert np.allclose([proportion.ci_low, proportion.ci_high], [low, high], rtol=1e-10, atol=1e-15)
    best = max(((score >= t)[y == 1].mean() + (score < t)[y == 0].mean()) for t in GRID)
    assert np.isclose(result.youden.sensitivity.estimate + result.youden.specificity.estimate, best, rtol=1e-12)


def test_calibration_equals_statsmodels_on_the_logit_of_the_score() -> None:
    y, score = scores()
    result = run(y, score).calibration
    assert result is not None
    oracle = sm.Logit(y, sm.add_constant(np.log(score / (1 - score)))).fit(disp=0, tol=1e-14)
    assert np.allclose([result.intercept, result.slope], oracle.params, rtol=1e-10)
    assert np.allclose([result.intercept_error, result.slope_error], oracle.bse, rtol=1e-10)
    assert sum(g.n for g in result.groups) == len(y)
    assert sum(g.observed for g in result.groups) == int(y.sum())
    assert np.isclose(sum(g.expected for g in result.groups), score.sum(), rtol=1e-12)
    chi2 = sum((g.observed - g.expected) ** 2 / (g.expected * (1 - g.expected / g.n)) for g in result.groups)
    assert np.isclose(result.chi2, chi2, rtol=1e-12)
    assert result.chi2_df == len(result.groups) == 10
    assert np.isclose(result.chi2_p, stats.chi2.sf(result.chi2, result.chi2_df), rtol=1e-12)


def test_separated_and_empty_classes_are_named() -> None:
    y, score = scores()
    apart = run(y, np.where(y == 1, 0.8, 0.2) + np.where(score > 0.5, 1 / 64, 0))
    assert (apart.auc, apart.auc_interval, apart.diagnosis, apart.calibration_diagnosis) == (
        1.0,
        None,
        "separated",
        "separated",
    )
    assert run(y, np.full(len(y), 0.3)).calibration_diagnosis == "constant"
    with pytest.raises(NotEstimable) as caught:
        run(np.zeros(50), score[:50])
    assert caught.value.diagnosis == "constant"


def test_scores_outside_the_grid_are_counted_not_used() -> None:
    y, score = scores()
    result = run(y, score, grid=GRID[:33])
    assert result.outside == int((score > 0.5).sum())
    assert result.n_positive + result.n_negative == len(y) - result.outside
