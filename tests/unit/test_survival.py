"""Cox models, Kaplan-Meier curves and log-rank tests from sums equal statsmodels on the pooled rows."""

import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from common.errors import BadQuery, ConfigError, NotEstimable, ProtocolError
from server.infer import cox, kaplan_meier
from tests.pooling import columns, drive, rows_of, split

DAYS = 120
GRID = tuple((np.arange(DAYS + 2) - 0.5).tolist())


def cohort(n: int = 300, seed: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arm, age, size = rng.integers(0, 3, n).astype(float), rng.normal(60, 9, n), rng.lognormal(1, 0.4, n)
    hazard = 0.01 * np.exp(0.5 * (arm == 1) + 0.03 * (age - 60) + 0.2 * size)
    time, censored = np.ceil(rng.exponential(1 / hazard)), np.ceil(rng.uniform(5, DAYS, n))
    event = (time <= censored).astype(float)
    return {"days": np.minimum(time, censored), "died": event, "age": age, "size": size, "arm": arm}


def difference(result: cox.Cox, oracle: object, *, null: float) -> float:
    chi2 = 2 * (oracle.llf - null)
    pairs = [
        ([r.estimate for r in result.rows], oracle.params),
        ([r.standard_error for r in result.rows], oracle.bse),
        ([r.p for r in result.rows], oracle.pvalues),
        ([result.log_likelihood, result.chi2], [oracle.llf, chi2]),
    ]
    return max(float(np.max(np.abs(np.array(a) / np.array(b) - 1))) for a, b in pairs)


def spec(rows: object, **more: object) -> cox.Spec:
    return cox.Spec(time="days", event="died", predictors=columns(rows, "age", "size"), **more)


def test_pooled_cox_on_a_grid_of_days_equals_statsmodels_for_any_split() -> None:
    data = cohort()
    rows = rows_of(data)
    results = [drive(cox.fit(spec(rows, grid=GRID)), split(rows, seed=seed)) for seed in range(2)]
    model = PHReg(data["days"], np.column_stack([data["age"], data["size"]]), status=data["died"], ties="efron")
    assert difference(results[0], model.fit(disp=0), null=model.loglike(np.zeros(2))) <= 1e-10
    assert results[0] == results[1]
    assert results[0].outside == 0


def test_cox_stratified_by_hospital_equals_statsmodels() -> None:
    data = cohort()
    rows = rows_of(data)
    of = np.random.default_rng(1).choice(3, size=len(data["days"]), p=[0.5, 0.3, 0.2])
    result = drive(cox.fit(spec(rows)), [rows.part(of == h) for h in range(3)])
    x = np.column_stack([data["age"], data["size"]])
    model = PHReg(data["days"], x, status=data["died"], ties="efron", strata=of)
    assert difference(result, model.fit(disp=0), null=model.loglike(np.zeros(2))) <= 1e-10
    assert result.stratified


def test_times_outside_the_grid_are_counted() -> None:
    data = cohort()
    result = drive(cox.fit(spec(rows_of(data), grid=GRID[:41])), split(rows_of(data)))
    assert result.outside == int((data["days"] >= 40).sum())


def test_a_hazard_without_bound_too_few_events_and_constants_are_named() -> None:
    data = cohort(80)
    n = len(data["days"])
    cases = (
        (data | {"age": data["died"] * 10}, "separated"),
        (data | {"died": (np.arange(n) < 3) * 1.0}, "too few events"),
        (data | {"age": np.full(n, 50.0)}, "constant"),
        (data | {"age": data["size"] * 2}, "aliased"),
    )
    for changed, diagnosis in cases:
        for grid in (GRID, ()):
            rows = rows_of(changed)
            with pytest.raises(NotEstimable) as caught:
                drive(cox.fit(spec(rows, grid=grid)), split(rows))
            assert caught.value.diagnosis == diagnosis


def test_a_wrong_model_or_grid_is_refused() -> None:
    rows = rows_of(cohort(50))
    with pytest.raises(ConfigError):
        cox.Spec(time="days", event="days", predictors=columns(rows, "age"))
    with pytest.raises(BadQuery):
        drive(cox.fit(spec(rows, grid=(3.0, 2.0))), split(rows))


def test_kaplan_meier_and_log_rank_equal_statsmodels() -> None:
    data = cohort()
    asked = kaplan_meier.Spec(time="days", event="died", grid=GRID, group="arm", levels=3)
    result = drive(kaplan_meier.fit(asked), split(rows_of(data)))
    for curve in result.curves:
        here = data["arm"] == curve.level
        oracle = SurvfuncRight(data["days"][here], data["died"][here])
        at = np.array([step.start + 0.5 for step in curve.steps])
        assert np.array_equal(at, oracle.surv_times[oracle.n_events > 0])
        assert np.allclose([s.survival for s in curve.steps], oracle.surv_prob[oracle.n_events > 0], rtol=1e-12)
        alive = oracle.surv_prob > 0
        assert np.allclose([s.standard_error for s in curve.steps][: alive.sum()], oracle.surv_prob_se[alive], rtol=1e-10)
        assert curve.median is None or curve.median + 0.5 == oracle.quantile(0.5)
    chi2, p = survdiff(data["days"], data["died"], data["arm"])
    assert np.allclose([result.chi2, result.p], [chi2, p], rtol=1e-10)


def test_hazard_ratios_of_pairs_are_those_of_the_log_rank_sums() -> None:
    data = cohort()
    asked = kaplan_meier.Spec(time="days", event="died", grid=GRID, group="arm", levels=3)
    result = drive(kaplan_meier.fit(asked), split(rows_of(data)))
    assert [(one.first, one.second) for one in result.ratios] == [(0, 1), (0, 2), (1, 2)]
    for one in result.ratios:
        here = np.isin(data["arm"], [one.first, one.second])
        days, died, arm = data["days"][here], data["died"][here], data["arm"][here]
        off = variance = 0.0
        for day in np.unique(days[died == 1]):
            risk = days >= day
            n, m, d = risk.sum(), (risk & (arm == one.second)).sum(), ((days == day) & (died == 1)).sum()
            off += ((days == day) & (died == 1) & (arm == one.second)).sum() - d * m / n
            variance += d * (m / n) * (1 - m / n) * (n - d) / (n - 1) if n > 1 else 0.0
        assert np.isclose(off**2 / variance, survdiff(days, died, arm)[0], rtol=1e-10)
        logs = off / variance + np.array([0, -1, 1]) * 1.959963984540054 / np.sqrt(variance)
        assert np.allclose([one.hazard_ratio, one.hazard_ratio_low, one.hazard_ratio_high], np.exp(logs), rtol=1e-10)


def test_one_curve_needs_no_group_and_no_events_is_named() -> None:
    data = cohort()
    one = drive(kaplan_meier.fit(kaplan_meier.Spec(time="days", event="died", grid=GRID)), split(rows_of(data)))
    assert len(one.curves) == 1
    assert one.chi2 is None
    assert one.ratios == ()
    for changed, asked, diagnosis in (
        (data | {"died": np.zeros(300)}, {}, "no events"),
        (data, {"group": "arm", "levels": 4}, "empty group"),
    ):
        with pytest.raises(NotEstimable) as caught:
            drive(kaplan_meier.fit(kaplan_meier.Spec(time="days", event="died", grid=GRID, **asked)), split(rows_of(changed)))
        assert caught.value.diagnosis == diagnosis


@pytest.mark.parametrize(("at_risk", "dying"), [(0, 0), (5, 6), (-1, 0), (5, -1), (-2, -1)])
def test_hazards_of_a_tie_that_no_patients_have_are_named(at_risk: int, dying: int) -> None:
    rows, one, p = rows_of(cohort()), 1 << 64, 2
    asked = cox.fit(spec(rows, grid=(0.5, DAYS + 0.5)))
    next(asked)
    asked.send([10 * one, 0, 0, 10 * one, one, 10 * one])
    risk = 1 + p + p * (p + 1) // 2
    hazards = [at_risk * one, *[0] * (risk - 1), dying * one, *[0] * (risk - 1)]
    with pytest.raises(ProtocolError, match="no patients have"):
        asked.send([10 * one, 0, *hazards, 6 * one, *[0] * p])
