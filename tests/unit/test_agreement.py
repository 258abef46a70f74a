"""ICC, Bland-Altman and concordance from one Gram equal two-way ANOVA and plain formulas on the pooled readings."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from common.errors import ConfigError, NotEstimable, ProtocolError
from server.infer import agreement
from tests.pooling import columns, drive, rows_of, split


def readings(n: int = 60, noise: float = 2.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    truth = rng.lognormal(3, 0.4, n)
    return {name: truth + bias + noise * rng.normal(size=n) for name, bias in (("a", 0.0), ("b", 1.0), ("c", -0.5))}


def run(table: dict[str, np.ndarray], *names: str) -> agreement.Agreement:
    rows = rows_of(table)
    return drive(agreement.fit(agreement.Spec(readers=columns(rows, *names))), split(rows))


@pytest.mark.parametrize("noise", [2.0, 1e-3])
def test_mean_squares_and_icc_equal_two_way_anova(noise: float) -> None:
    table = readings(noise=noise)
    result = run(table, "a", "b", "c")
    values = np.column_stack(list(table.values()))
    n, k = values.shape
    centre = values - values.mean()
    row, col = centre.mean(axis=1, keepdims=True), centre.mean(axis=0, keepdims=True)
    r, c = k * (row**2).sum() / (n - 1), n * (col**2).sum() / (k - 1)
    e = ((centre - row - col) ** 2).sum() / ((n - 1) * (k - 1))
    assert np.allclose([result.ms_subjects, result.ms_readers, result.ms_error], [r, c, e], rtol=1e-10)
    icc2, icc3 = result.icc
    assert np.isclose(icc2.estimate, (r - e) / (r + (k - 1) * e + k * (c - e) / n), rtol=1e-10)
    assert np.isclose(icc3.estimate, (r - e) / (r + (k - 1) * e), rtol=1e-10)
    assert icc2.ci_low < icc2.estimate < icc2.ci_high
    f_low = r / e / stats.f.ppf(0.975, n - 1, (n - 1) * (k - 1))
    assert np.isclose(icc3.ci_low, (f_low - 1) / (f_low + k - 1), rtol=1e-10)


def test_f_test_equals_statsmodels_anova() -> None:
    table = readings()
    long = pd.DataFrame(table).reset_index().melt(id_vars="index")
    oracle = anova_lm(ols("value ~ C(index) + C(variable)", long).fit())
    result = run(table, "a", "b", "c")
    assert np.isclose(result.icc[0].f, oracle.loc["C(index)", "F"], rtol=1e-10)
    assert np.isclose(result.icc[0].p, oracle.loc["C(index)", "PR(>F)"], rtol=1e-10, atol=0)


def test_bland_altman_and_concordance_equal_plain_formulas() -> None:
    table = readings()
    pair = run(table, "a", "b").pairs[0]
    x, y = table["a"], table["b"]
    d = x - y
    t = stats.ttest_rel(x, y)
    assert np.allclose([pair.bias, pair.sd, pair.bias_p], [d.mean(), d.std(ddof=1), t.pvalue], rtol=1e-10)
    assert np.allclose(pair.bias_ci, t.confidence_interval(), rtol=1e-10)
    assert np.allclose(pair.limits, d.mean() + np.array([-1, 1]) * stats.norm.ppf(0.975) * d.std(ddof=1), rtol=1e-10)
    ccc = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + d.mean() ** 2)
    assert np.isclose(pair.concordance, ccc, rtol=1e-10)
    assert pair.concordance_ci[0] < ccc < pair.concordance_ci[1]


def test_interval_of_icc2_is_mcgraw_and_wongs_worked_example() -> None:
    """Shrout and Fleiss 1979, table 2: six subjects, four judges."""
    judged = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
    result = run({f"j{i}": judged[:, i] for i in range(4)}, "j0", "j1", "j2", "j3")
    icc2, icc3 = result.icc
    assert np.allclose([icc2.estimate, icc2.ci_low, icc2.ci_high], [0.290, 0.019, 0.761], atol=5e-4)
    assert np.allclose([icc3.estimate, icc3.ci_low, icc3.ci_high], [0.715, 0.342, 0.946], atol=5e-4)


def test_readings_without_spread_or_error_are_named() -> None:
    table = readings()
    for changed, diagnosis in (
        (table | {"b": table["a"] + 1.0}, "perfect fit"),
        ({"a": np.ones(20), "b": np.ones(20)}, "constant"),
        ({"a": table["a"][:3], "b": table["b"][:3]}, "too few rows"),
    ):
        with pytest.raises(NotEstimable) as caught:
            run(changed, "a", "b")
        assert caught.value.diagnosis == diagnosis
    with pytest.raises(ConfigError):
        agreement.Spec(readers=columns(rows_of(table), "a"))


def test_a_reader_who_never_varies_agrees_with_nobody_by_chance() -> None:
    table = readings() | {"b": np.full(60, 0.1), "c": np.full(60, 1 / 3)}
    result = run(table, "a", "b", "c")
    assert [(pair.concordance, pair.concordance_ci) for pair in result.pairs] == [(0.0, None)] * 3
    assert [pair.sd == 0 for pair in result.pairs] == [False, False, True]


ONE = 1 << 64


@pytest.mark.parametrize(
    "scatter",
    [
        (-ONE, 0, 9 * ONE),  # squares that add up to less than none
        (-ONE, 0, -ONE),
        (ONE, 5 * ONE, 9 * ONE),  # more shared than either has
        (0, ONE >> 20, ONE),
    ],
)
def test_sums_that_no_readings_have_are_named(scatter: tuple[int, int, int]) -> None:
    rows = rows_of(readings())
    asked = agreement.fit(agreement.Spec(readers=columns(rows, "a", "b")))
    next(asked)
    with pytest.raises(ProtocolError, match="not one of readings"):
        asked.send([40 * ONE, 0, 0, *scatter])
