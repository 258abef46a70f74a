"""Partial correlations, components, Table 1, adjusted p-values and heterogeneity equal independent computations."""

import json
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from common.errors import ConfigError, NotEstimable, ProtocolError
from common.moments import Moments
from server.infer import adjust, correlation, meta, partial, principal, table_one
from server.infer.meta import Weighted
from tests import tables
from tests.tables import FACTORS, GRADES, NUMBERS, difference

NAMES = ["a", "b", "c", "d", "e"]


def five(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(rows, 5)) @ rng.normal(size=(5, 5)) * [1, 10, 0.1, 1, 3]
    return pd.DataFrame(x, columns=NAMES)


def pooled(frame: pd.DataFrame) -> Moments:
    ends = {name: (float(np.floor(column.min() - 1)), float(np.ceil(column.max() + 1))) for name, column in frame.items()}
    return tables.pooled(frame, held=tables.study(ends, correlation=list(frame)))  # type: ignore[arg-type]


def wdbc() -> pd.DataFrame:
    frame = pd.read_csv(tables.real("wdbc.csv")).iloc[:, :30]
    frame.columns = [name.replace(" ", "_") for name in frame.columns]
    return frame


def residual(frame: pd.DataFrame, name: str, given: list[str]) -> np.ndarray:
    x = sm.add_constant(frame[given].to_numpy())
    return frame[name].to_numpy() - x @ np.linalg.lstsq(x, frame[name].to_numpy(), rcond=None)[0]


@pytest.mark.parametrize("given", [[], ["d", "e"], ["c"]], ids=["all others", "two", "one"])
def test_partial_correlation_equals_that_of_residuals(given: list[str]) -> None:
    frame = five()
    names = [name for name in NAMES if name not in given]
    ours = partial.correlate(pooled(frame), names=names, given=given)
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            rest = given or [name for name in names if name not in {first, second}]
            r = np.corrcoef(residual(frame, first, rest), residual(frame, second, rest))[0, 1]
            df = len(frame) - 2 - len(rest)
            p = 2 * stats.t.sf(abs(r) * np.sqrt(df / (1 - r * r)), df)
            assert difference(ours.r[i, j], r) <= 1e-10
            assert difference(ours.p_values[i, j], p) <= 1e-10
            ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * stats.norm.isf(0.025) / np.sqrt(df - 1))
            assert difference([ours.ci_low[i, j], ours.ci_high[i, j]], ends) <= 1e-10


def test_partial_correlation_of_columns_that_give_one_another_is_diagnosed() -> None:
    frame = five().assign(e=lambda x: np.round(x["a"], 6) * 2)
    frame["a"] = frame["e"] / 2
    for given in ([], ["e"]):
        with pytest.raises(NotEstimable) as refused:
            partial.correlate(pooled(frame), names=[name for name in NAMES if name not in given], given=given)
        assert refused.value.diagnosis == "aliased"


def test_partial_correlation_of_too_few_rows_is_diagnosed() -> None:
    with pytest.raises(NotEstimable, match="too few rows"):
        partial.correlate(pooled(five(6)), names=NAMES)
    with pytest.raises(ConfigError):
        partial.correlate(pooled(five()), names=["a", "b"], given=["a"])


def test_adjusted_p_values_equal_statsmodels_and_leave_out_what_was_not_tested() -> None:
    p = [0.001, 0.04, np.nan, 0.03, 0.8, 1e-200, 0.03, 1.0]
    held = [value for value in p if not np.isnan(value)]
    for ours, method in ((adjust.benjamini_hochberg(p), "fdr_bh"), (adjust.holm(p), "holm")):
        assert np.isnan(ours[2])
        assert difference(ours[~np.isnan(ours)], multipletests(held, method=method)[1]) <= 1e-14
    assert adjust.holm([]).size == 0
    assert np.isnan(adjust.benjamini_hochberg([np.nan, np.nan])).all()
    for bad in ([-0.1], [1.1]):
        with pytest.raises(ValueError, match="p-value"):
            adjust.holm(bad)


def test_correlations_carry_p_values_adjusted_over_all_pairs() -> None:
    ours = correlation.correlate(pooled(five()), names=NAMES)
    above = np.triu_indices(5, 1)
    assert np.array_equal(ours.p_holm[above], adjust.holm(ours.p_values[above].tolist()))
    assert np.array_equal(ours.p_bh, ours.p_bh.T, equal_nan=True)
    assert np.isnan(np.diag(ours.p_bh)).all()


@pytest.mark.parametrize("of", ["correlation", "covariance"])
def test_components_equal_singular_values_of_the_pooled_rows(of: principal.Of) -> None:
    frame = five()
    x = frame.to_numpy() - frame.to_numpy().mean(axis=0)
    x = x / x.std(axis=0, ddof=1) if of == "correlation" else x
    _, s, vt = np.linalg.svd(x / np.sqrt(len(x) - 1), full_matrices=False)
    ours = principal.components(pooled(frame), names=NAMES, of=of)
    assert difference(ours.eigenvalues, s**2) <= 1e-10
    assert difference(ours.explained, s**2 / np.sum(s**2)) <= 1e-10
    assert np.max(np.abs(np.abs(ours.loadings) - np.abs(vt.T))) <= 1e-10
    assert (ours.loadings[np.argmax(np.abs(ours.loadings), axis=0), range(5)] > 0).all()
    assert (ours.ci_low < ours.eigenvalues).all()
    json.dumps(ours.plain(), allow_nan=False)


def test_components_of_thirty_near_collinear_columns_equal_singular_values() -> None:
    frame = wdbc()
    x = frame.to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    s = np.linalg.svd(x, compute_uv=False) / np.sqrt(len(x) - 1)
    ours = principal.components(pooled(frame), names=list(frame))
    assert difference(ours.eigenvalues, s**2) <= 1e-10


def test_components_of_a_constant_column_or_two_rows_are_diagnosed() -> None:
    with pytest.raises(NotEstimable, match="constant"):
        principal.components(pooled(five().assign(c=1.0)), names=NAMES)
    with pytest.raises(NotEstimable, match="too few rows"):
        principal.components(pooled(five(2)), names=NAMES)


def test_table_one_equals_the_pooled_rows() -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, descriptive=["age", "grade", "x", "sex"]), tables.synthetic()
    ours = table_one.describe(tables.pooled(frame, held=held), study=held, names=held.statistics.descriptive)
    for number in ours.numbers:
        column = frame[number.name]
        assert difference([number.mean, number.sd], [column.mean(), column.std()]) <= 1e-10
        assert (
            difference([number.ci_low, number.ci_high], stats.t.interval(0.95, 399, column.mean(), stats.sem(column))) <= 1e-10
        )
    for share in ours.shares:
        count = int((frame[share.name] == share.level).sum())
        assert share.count == count
        assert difference([share.ci_low, share.ci_high], proportion_confint(count, 400, method="wilson")) <= 1e-10
    assert [share.level for share in ours.shares] == [*GRADES, "f", "m"]
    assert not {"minimum", "maximum", "min", "max"} & set(json.loads(json.dumps(ours.plain()))["numbers"][0])


def test_level_that_nobody_or_everybody_has_keeps_its_interval_inside_zero_and_one() -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, descriptive=["sex"]), tables.synthetic().assign(sex="f")
    female, male = table_one.describe(tables.pooled(frame, held=held), study=held, names=["sex"]).shares
    assert (female.count, female.ci_high, male.count, male.ci_low) == (400, 1.0, 0, 0.0)


EFFECTS, VARIANCES = [0.4, -0.1, 0.9, 0.35, 1.6], [0.02, 0.03, 0.01, 0.05, 0.04]


def weighted(tau_squared: float = 0.0, effects: list[float] = EFFECTS) -> Weighted:
    w = [1 / (Fraction(v) + Fraction(tau_squared)) for v in VARIANCES]
    b = [Fraction(value) for value in effects]
    return Weighted(
        hospitals=5,
        weight=sum(w, Fraction(0)),
        first=sum((i * j for i, j in zip(w, b, strict=True)), Fraction(0)),
        second=sum((i * j**2 for i, j in zip(w, b, strict=True)), Fraction(0)),
        weight_squared=sum((i**2 for i in w), Fraction(0)),
    )


def test_heterogeneity_and_random_effects_equal_statsmodels() -> None:
    theirs = combine_effects(np.array(EFFECTS), np.array(VARIANCES), method_re="dl", use_t=True)
    ours = meta.heterogeneity(weighted())
    assert difference([ours.q, ours.tau_squared, ours.i_squared], [theirs.q, theirs.tau2, theirs.i2]) <= 1e-10
    assert difference([ours.fixed_effect, ours.fixed_standard_error], [theirs.mean_effect_fe, theirs.sd_eff_w_fe]) <= 1e-10
    assert difference(ours.p, stats.chi2.sf(theirs.q, 4)) <= 1e-10
    assert ours.i_squared_low < ours.i_squared < ours.i_squared_high
    mean = meta.random_effects(weighted(ours.tau_squared), tau_squared=ours.tau_squared)
    assert difference([mean.estimate, mean.standard_error], [theirs.mean_effect_re, theirs.sd_eff_w_re_hksj]) <= 1e-10
    low, high = theirs.conf_int()[3]
    assert difference([mean.ci_low, mean.ci_high], [low, high]) <= 1e-10
    assert mean.prediction_low < mean.ci_low


def test_equal_hospitals_have_no_heterogeneity_and_no_random_effect() -> None:
    ours = meta.heterogeneity(weighted(effects=[0.5] * 5))
    assert (ours.q, ours.i_squared, ours.tau_squared, ours.p) == (0, 0, 0, 1)
    with pytest.raises(NotEstimable, match="perfect fit"):
        meta.random_effects(weighted(effects=[0.5] * 5), tau_squared=0.0)


@pytest.mark.parametrize(
    "change",
    [{"weight": Fraction(0)}, {"second": Fraction(-1)}, {"first": Fraction(10**9)}, {"weight_squared": Fraction(10**12)}],
)
def test_sums_that_no_estimates_have_are_refused(change: dict[str, Fraction]) -> None:
    sums = weighted()
    plain = {key: getattr(sums, key) for key in ("hospitals", "weight", "first", "second", "weight_squared")}
    with pytest.raises(ProtocolError):
        meta.heterogeneity(Weighted(**{**plain, **change}))


def test_one_hospital_has_no_heterogeneity() -> None:
    with pytest.raises(NotEstimable, match="too few hospitals"):
        meta.heterogeneity(Weighted(hospitals=1, weight=Fraction(1), first=Fraction(1), second=Fraction(1)))
