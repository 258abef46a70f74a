"""Pooled fits of formulas and analyses of variance equal those of statsmodels on the pooled rows."""

import time
from dataclasses import asdict

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats

from common.errors import NotEstimable
from server.infer import anova, noncentral, regression
from tests import tables
from tests.tables import FACTORS, HEART_FACTORS, HEART_NUMBERS, NUMBERS, difference

K_WAY = "y ~ grade * sex * x + age"
HEART = "rate ~ pain * sex + age + pressure"


def oracle(frame: pd.DataFrame, formula: str, *, typ: int) -> pd.DataFrame:
    table = sm.stats.anova_lm(smf.ols(formula, frame).fit(method="qr"), typ=typ)
    return table.rename(index=lambda name: name.replace("C(", "").replace(", Sum", "").replace(")", ""))


def assert_equals(ours: anova.Anova, theirs: pd.DataFrame) -> None:
    for row in ours.rows:
        one = theirs.loc[row.term]
        assert difference(row.sum_of_squares, one["sum_sq"]) <= 1e-10, row.term
        assert difference(row.f, one["F"]) <= 1e-10, row.term
        assert difference(row.p, one["PR(>F)"]) <= 1e-10, row.term
        assert row.df == one["df"]
        assert difference(row.eta_squared, one["sum_sq"] / (one["sum_sq"] + theirs.loc["Residual", "sum_sq"])) <= 1e-10
        assert 0 <= row.ci_low <= row.ci_high <= 1
    assert difference(ours.sum_of_squares, theirs.loc["Residual", "sum_sq"]) <= 1e-10
    assert ours.df == theirs.loc["Residual", "df"]


@pytest.mark.parametrize(
    ("kind", "typ", "formula", "theirs"),
    [
        ("I", 1, "y ~ grade * sex", "y ~ grade * sex"),
        ("I", 1, "y ~ x * age", "y ~ x * age"),
        ("I", 1, "y ~ grade", "y ~ grade"),
        ("II", 2, "y ~ grade", "y ~ grade"),
        ("II", 2, K_WAY, "y ~ grade * sex * x + age"),
        ("III", 3, K_WAY, "y ~ C(grade, Sum) * C(sex, Sum) * x + age"),
        ("III", 3, "y ~ grade * sex", "y ~ C(grade, Sum) * C(sex, Sum)"),
    ],
)
def test_pooled_anova_equals_statsmodels(kind: anova.Kind, typ: int, formula: str, theirs: str) -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, models=[formula]), tables.synthetic()
    ours = anova.analyse(tables.pooled(frame, held=held), model=held.model(formula), kind=kind)
    assert_equals(ours, oracle(frame, theirs, typ=typ))


def test_anova_of_four_heart_hospitals_equals_statsmodels() -> None:
    frame, hospital = tables.heart()
    held = tables.study(HEART_NUMBERS, factors=HEART_FACTORS, models=[HEART])
    pooled = tables.pooled(frame, held=held, hospitals=hospital)
    complete = frame.dropna()
    assert pooled.n == len(complete) > 800
    for kind, typ, formula in (("II", 2, HEART), ("III", 3, "rate ~ C(pain, Sum) * C(sex, Sum) + age + pressure")):
        assert_equals(anova.analyse(pooled, model=held.model(HEART), kind=kind), oracle(complete, formula, typ=typ))  # type: ignore[arg-type]


def test_pooled_fit_of_a_formula_equals_statsmodels() -> None:
    formula = "y ~ grade * x + sex + log(age) + square(age)"
    held, frame = tables.study(NUMBERS, factors=FACTORS, models=[formula]), tables.synthetic()
    ours = regression.fit_model(tables.pooled(frame, held=held), model=held.model(formula))
    theirs = smf.ols("y ~ grade * x + sex + np.log(age) + np.square(age)", frame).fit(method="qr")
    spelt = {"(intercept)": "Intercept", "log(age)": "np.log(age)", "square(age)": "np.square(age)"}
    names = {row.term: spelt.get(row.term, row.term.replace("[", "[T.")) for row in ours.rows}
    for row in ours.rows:
        name = names[row.term]
        assert difference(row.estimate, theirs.params[name]) <= 1e-10
        assert difference(row.standard_error, theirs.bse[name]) <= 1e-10
        assert difference(row.p, theirs.pvalues[name]) <= 1e-10
        assert difference([row.ci_low, row.ci_high], theirs.conf_int().loc[name]) <= 1e-10
    assert len(ours.rows) == len(theirs.params)
    assert difference(ours.r_squared, theirs.rsquared) <= 1e-10


def test_type_three_does_not_depend_on_which_level_is_the_reference() -> None:
    frame = tables.synthetic()
    found = []
    for order in (["g1", "g2", "g3"], ["g3", "g1", "g2"]):
        held = tables.study(NUMBERS, factors={**FACTORS, "grade": order}, models=[K_WAY])
        found.append(anova.analyse(tables.pooled(frame, held=held), model=held.model(K_WAY), kind="III"))
    for one, other in zip(found[0].rows, found[1].rows, strict=True):
        assert difference(one.f, other.f) <= 1e-12


def noncentral_truth(f: float, *, q: float, df: float, ncp: float) -> float:
    with mp.workdps(30):
        x, half = mp.mpf(q) * f / (q * f + df), mp.mpf(ncp) / 2
        weights = (mp.exp(-half) * half**j / mp.factorial(j) for j in range(200))
        return float(
            mp.fsum(w * mp.betainc(mp.mpf(q) / 2 + j, mp.mpf(df) / 2, 0, x, regularized=True) for j, w in enumerate(weights))
        )


def test_interval_of_the_effect_size_inverts_the_noncentral_f() -> None:
    low, high = noncentral.interval(6.2, q=3, df=57)
    assert noncentral_truth(6.2, q=3, df=57, ncp=low) == pytest.approx(0.975, rel=1e-10)
    assert noncentral_truth(6.2, q=3, df=57, ncp=high) == pytest.approx(0.025, rel=1e-10)
    below, above = noncentral.tails(30.0, q=3, df=50, ncp=10)
    assert above == pytest.approx(1 - noncentral_truth(30.0, q=3, df=50, ncp=10), rel=1e-6)
    assert below + above == pytest.approx(1, abs=1e-14)


def test_interval_of_r_squared_inverts_the_f_test_of_all_predictors() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, models=["y ~ age"])
    fit = regression.fit(tables.pooled(tables.synthetic(), held=held), outcome="y", predictors=["age"])
    low, high = (share * fit.n / (1 - share) for share in (fit.r_squared_low, fit.r_squared_high))
    assert fit.r_squared_low < fit.r_squared < fit.r_squared_high
    assert noncentral_truth(fit.f, q=1, df=fit.df, ncp=high) == pytest.approx(0.025, rel=1e-10)
    assert low > 0
    assert noncentral_truth(fit.f, q=1, df=fit.df, ncp=low) == pytest.approx(0.975, rel=1e-10)


def test_interval_of_a_small_f_starts_at_zero_and_that_of_a_tiny_f_is_zero() -> None:
    assert noncentral.interval(0.9, q=3, df=57)[0] == 0
    assert noncentral.interval(0.001, q=3, df=57) == (0, 0)


@pytest.mark.parametrize(("f", "df"), [(30.0, 400), (1e3, 1e4), (1e5, 1e4), (1e9, 4e3), (1e12, 1e6)])
def test_interval_of_a_huge_f_is_found_at_once(f: float, df: float) -> None:
    started = time.process_time()
    low, high = noncentral.explained(f, q=3, df=df)
    assert time.process_time() - started < 2
    assert 0 < low < 3 * f / (3 * f + df) < high < 1


@pytest.mark.parametrize(("f", "ncp"), [(150.0, 400), (1e3, 2.8e3), (3e3, 9.3e3)])
def test_tails_of_a_large_noncentrality_equal_scipys(f: float, ncp: float) -> None:
    below, above = noncentral.tails(f, q=3, df=500, ncp=ncp)
    assert below + above == pytest.approx(1, abs=1e-13)
    assert below == pytest.approx(stats.ncf.cdf(f, 3, 500, ncp), rel=1e-10)


@pytest.mark.parametrize(
    ("change", "diagnosis", "term"),
    [
        ({"sex": "f"}, "constant", "sex[m]"),
        ({"x": 1.0}, "constant", "x"),
        ({"y": 3.0}, "constant", "y"),
    ],
)
def test_what_does_not_vary_is_named(change: dict[str, object], diagnosis: str, term: str) -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, models=[K_WAY]), tables.synthetic().assign(**change)
    pooled = tables.pooled(frame, held=held)
    for kind in ("I", "II", "III"):
        with pytest.raises(NotEstimable) as refused:
            anova.analyse(pooled, model=held.model(K_WAY), kind=kind)  # type: ignore[arg-type]
        assert (refused.value.diagnosis, refused.value.term) == (diagnosis, term)


def test_empty_cell_of_two_factors_is_named_instead_of_a_number() -> None:
    frame = tables.synthetic()
    frame.loc[(frame["grade"] == "g3") & (frame["sex"] == "m"), "sex"] = "f"
    held = tables.study(NUMBERS, factors=FACTORS, models=["y ~ grade * sex"])
    with pytest.raises(NotEstimable) as refused:
        anova.analyse(tables.pooled(frame, held=held), model=held.model("y ~ grade * sex"), kind="II")
    assert (refused.value.diagnosis, refused.value.term) == ("constant", "grade[g3]:sex[m]")


def test_factor_that_another_gives_is_named() -> None:
    frame = tables.synthetic()
    frame["sex"] = np.where(frame["grade"] == "g2", "m", "f")
    held = tables.study(NUMBERS, factors=FACTORS, models=["y ~ grade + sex"])
    with pytest.raises(NotEstimable) as refused:
        anova.analyse(tables.pooled(frame, held=held), model=held.model("y ~ grade + sex"), kind="II")
    assert (refused.value.diagnosis, refused.value.term) == ("aliased", "sex[m]")


def test_outcome_that_the_terms_give_is_a_perfect_fit() -> None:
    frame = tables.synthetic()
    frame["y"] = frame["grade"].map({"g1": 1.0, "g2": 2.5, "g3": 4.0})
    held = tables.study(NUMBERS, factors=FACTORS, models=["y ~ grade"])
    with pytest.raises(NotEstimable, match="perfect fit"):
        anova.analyse(tables.pooled(frame, held=held), model=held.model("y ~ grade"), kind="I")


def test_too_few_rows_are_named() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, models=[K_WAY])
    with pytest.raises(NotEstimable, match="too few rows"):
        anova.analyse(tables.pooled(tables.synthetic(13), held=held), model=held.model(K_WAY), kind="I")


def test_result_is_the_same_for_any_split_of_the_rows() -> None:
    frame, held = tables.synthetic(), tables.study(NUMBERS, factors=FACTORS, models=[K_WAY])
    one = tables.pooled(frame, held=held, hospitals=["a"] * len(frame))
    many = tables.pooled(frame, held=held, hospitals=[i % 20 for i in range(len(frame))])
    model = held.model(K_WAY)
    assert asdict(anova.analyse(one, model=model, kind="III")) == asdict(anova.analyse(many, model=model, kind="III"))
