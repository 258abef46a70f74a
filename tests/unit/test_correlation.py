"""Pooled correlations from the integer Gram against scipy on the pooled rows, with 60-digit arithmetic as the judge."""

import json
import os
from decimal import Decimal
from pathlib import Path

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common import moments
from common.errors import ConfigError, NotEstimable
from common.moments import Moments
from common.study import Study
from common.variable import Variable
from common.wanted import Regression, Statistics
from server.infer import correlation

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f'real data "{name}" not found in {DATA} (set MOTET_TEST_DATA)')
    return path


def pooled(x: np.ndarray, *, hospitals: int = 4) -> Moments:
    variables = tuple(
        Variable(
            name=f"v{i}",
            source="image",
            unit="1",
            lower=Decimal(int(np.floor(c.min())) - 1),
            upper=Decimal(int(np.ceil(c.max())) + 1),
        )
        for i, c in enumerate(x.T)
    )
    names = tuple(v.name for v in variables)
    statistics = Statistics(correlation=names, regression=Regression(outcome=names[0], predictors=names[1:]))
    study = Study.model_construct(variables=variables, statistics=statistics)
    grams = [moments.gram(moments.fixed_point(part, study=study)) for part in np.array_split(x, hospitals)]
    return moments.from_total(sum(grams[1:], grams[0]).tolist(), study=study)


def correlate(x: np.ndarray) -> correlation.Correlation:
    held = pooled(x)
    return correlation.correlate(held, names=held.columns)


def truth(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """r and its two-sided p at 60 digits."""
    with mp.workdps(60):
        u, v = ([mp.mpf(x) for x in c.tolist()] for c in (a, b))
        n = len(u)
        mu, mv = mp.fsum(u) / n, mp.fsum(v) / n
        u, v = [x - mu for x in u], [x - mv for x in v]
        r = mp.fdot(u, v) / mp.sqrt(mp.fdot(u, u) * mp.fdot(v, v))
        p = mp.betainc(mp.mpf(n - 2) / 2, 0.5, 0, 1 - r * r, regularized=True)
        return float(r), float(p)


def assert_equals_truth(result: correlation.Correlation, x: np.ndarray, *, step: int = 1) -> None:
    pairs = [(i, j) for i in range(x.shape[1]) for j in range(i)][::step]
    for i, j in pairs:
        r, p = truth(x[:, i], x[:, j])
        assert result.r[i, j] == pytest.approx(r, rel=1e-10, abs=0)
        assert result.p_values[i, j] == pytest.approx(p, rel=1e-10, abs=1e-300)


def synthetic() -> np.ndarray:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(250, 5)) * [1, 100, 0.01, 5, 1] + [0, 1000, 3, 0, -8]
    x[:, 3] += 4 * x[:, 0]
    x[:, 4] = x[:, 1] + rng.normal(size=250) * 1e-3
    return x


def test_pooled_correlations_equal_sixty_digit_arithmetic() -> None:
    x = synthetic()
    assert_equals_truth(correlate(x), x)


def test_pooled_correlations_and_intervals_equal_scipy() -> None:
    x = synthetic()[:, :4]
    result = correlate(x)
    for i in range(4):
        for j in range(i):
            theirs = stats.pearsonr(x[:, i], x[:, j])
            low, high = theirs.confidence_interval()
            assert result.r[i, j] == pytest.approx(theirs.statistic, rel=1e-10)
            assert result.p_values[i, j] == pytest.approx(theirs.pvalue, rel=1e-10)
            assert (result.ci_low[i, j], result.ci_high[i, j]) == pytest.approx((low, high), rel=1e-10)


def test_p_is_the_beta_tail_of_the_reference() -> None:
    x = synthetic()[:, :4]
    result = correlate(x)
    half = (result.n - 2) / 2
    expected = 2 * stats.beta.sf((np.abs(result.r) + 1) / 2, half, half)
    off = ~np.eye(4, dtype=bool)
    assert np.allclose(result.p_values[off], expected[off], rtol=1e-10, atol=0)


def test_matrices_are_symmetric_and_one_on_the_diagonal() -> None:
    result = correlate(synthetic())
    for matrix in (result.r, result.p_values, result.ci_low, result.ci_high):
        assert np.array_equal(matrix, matrix.T)
        assert not matrix.flags.writeable
    assert np.array_equal(np.diag(result.r), np.ones(5))
    assert np.array_equal(np.diag(result.p_values), np.zeros(5))


def test_correlation_very_close_to_one_keeps_its_p_value() -> None:
    rng = np.random.default_rng(4)
    a = rng.integers(-(10**9), 10**9, 12).astype(float)  # whole numbers: the grid holds them exactly
    x = np.column_stack([a, a + rng.integers(-300, 300, 12)])
    assert 0 < 1 - correlate(x).r[0, 1] < 1e-12
    assert_equals_truth(correlate(x), x)


def test_column_against_its_own_negative_is_exactly_minus_one() -> None:
    a = np.random.default_rng(1).integers(-50, 50, 40).astype(float)
    result = correlate(np.column_stack([a, -a]))
    assert (result.r[0, 1], result.p_values[0, 1], result.ci_low[0, 1], result.ci_high[0, 1]) == (-1.0, 0.0, -1.0, -1.0)


def test_wdbc_correlations_equal_sixty_digit_arithmetic() -> None:
    x = pd.read_csv(real("wdbc.csv")).drop(columns=["target", "diagnosis"]).to_numpy(float)
    result = correlate(x)
    assert result.n == 569
    assert np.allclose(result.r, np.corrcoef(x.T), rtol=1e-10, atol=1e-14)
    assert_equals_truth(result, x, step=12)


def test_lidc_correlations_equal_scipy() -> None:
    frame = pd.read_csv(real("lidc_params.csv.gz"))
    x = frame[["diam_mm", "short_mm", "volume_mm3", "thick", "spiculation", "malignancy"]].to_numpy(float)
    result = correlate(x)
    for i in range(6):
        for j in range(i):
            theirs = stats.pearsonr(x[:, i], x[:, j])
            assert result.r[i, j] == pytest.approx(theirs.statistic, rel=1e-10)
            assert result.p_values[i, j] == pytest.approx(theirs.pvalue, rel=1e-10, abs=1e-300)


def test_heart_correlations_over_four_hospitals_equal_scipy() -> None:
    frame = pd.read_csv(real("heart-disease-4-hospitals.csv"))
    x = frame[["age", "thalch", "oldpeak"]].dropna().to_numpy(float)
    result = correlate(x)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        theirs = stats.pearsonr(x[:, i], x[:, j])
        assert result.r[i, j] == pytest.approx(theirs.statistic, rel=1e-10)
        assert result.p_values[i, j] == pytest.approx(theirs.pvalue, rel=1e-10)


def test_constant_column_is_named_and_has_no_number() -> None:
    x = synthetic()
    x[:, 2] = 0.1
    result = correlate(x)
    assert result.constant == ("v2",)
    assert np.isnan(result.r[2]).all()
    assert np.isfinite(np.delete(np.delete(result.r, 2, 0), 2, 1)).all()


def test_plain_result_is_json_without_nan() -> None:
    x = synthetic()
    x[:, 2] = 0.1
    plain = correlate(x).plain()
    assert json.loads(json.dumps(plain, allow_nan=False))["r"][2] == [None] * 5
    assert set(plain) == {"names", "n", "constant", "r", "p", "p_bh", "p_holm", "ci_low", "ci_high"}


def test_three_rows_are_too_few() -> None:
    with pytest.raises(NotEstimable, match="too few rows"):
        correlate(synthetic()[:3])
    assert correlate(synthetic()[:4]).n == 4


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError):
        correlation.correlate(pooled(synthetic()), names=["v0", "height"])
