"""Pooled least squares from the integer Gram against statsmodels on the pooled rows, with 60-digit arithmetic as the judge."""

import math
import os
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from common import moments
from common.errors import ConfigError, NotEstimable, ProtocolError
from common.moments import Moments
from common.study import Study
from common.variable import Variable
from common.wanted import Regression as Model
from common.wanted import Statistics
from server.infer import regression

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f'real data "{name}" not found in {DATA} (set MOTET_TEST_DATA)')
    return path


def pooled(x: np.ndarray, *, bounds: list[tuple[float, float]] | None = None, hospitals: int = 4) -> Moments:
    """The moments of columns v0..: dealt to hospitals in uneven runs, each makes its integer Gram, the Grams are added."""
    bounds = bounds or [
        (float(np.floor(c.min() - np.ptp(c) / 2 - 1e-9)), float(np.ceil(c.max() + np.ptp(c) + 1e-9))) for c in x.T
    ]
    variables = tuple(
        Variable(name=f"v{i}", source="image", unit="1", lower=Decimal(repr(low)), upper=Decimal(repr(high)))
        for i, (low, high) in enumerate(bounds)
    )
    names = tuple(v.name for v in variables)
    statistics = Statistics(correlation=names, regression=Model(outcome=names[-1], predictors=names[:-1]))
    study = Study.model_construct(variables=variables, statistics=statistics)
    cuts = np.sort(np.random.default_rng(3).integers(0, len(x) + 1, hospitals - 1))
    grams = [moments.gram(moments.fixed_point(part, study=study)) for part in np.split(x, cuts)]
    return moments.from_total(sum(grams[1:], grams[0]).tolist(), study=study)


def fit(x: np.ndarray, **options: object) -> regression.Regression:
    """Regress the last column on the others."""
    names = [f"v{i}" for i in range(x.shape[1])]
    return regression.fit(pooled(x, **options), outcome=names[-1], predictors=names[:-1])  # type: ignore[arg-type]


def truth(x: np.ndarray) -> dict[str, np.ndarray]:
    """Estimates, standard errors, t, p and R squared at 60 digits, from the float64 rows as they are."""
    with mp.workdps(60):
        rows = [[mp.mpf(1), *map(mp.mpf, row[:-1])] for row in x.tolist()]
        y = [mp.mpf(v) for v in x[:, -1].tolist()]
        columns = list(zip(*rows, strict=True))
        q = len(columns)
        a = mp.matrix(q, q)
        for i in range(q):
            for j in range(i, q):
                a[i, j] = a[j, i] = mp.fdot(columns[i], columns[j])
        inverse = mp.inverse(a)
        beta = inverse * mp.matrix([mp.fdot(c, y) for c in columns])
        rss = mp.fsum((v - mp.fdot(row, beta)) ** 2 for row, v in zip(rows, y, strict=True))
        centre = mp.fsum(y) / len(y)
        df = len(y) - q
        se = [mp.sqrt(rss / df * inverse[j, j]) for j in range(q)]
        t = [beta[j] / se[j] for j in range(q)]
        p = [mp.betainc(mp.mpf(df) / 2, 0.5, 0, df / (df + v * v), regularized=True) for v in t]
        r2 = 1 - rss / mp.fsum((v - centre) ** 2 for v in y)
        return {k: np.array([float(v) for v in values]) for k, values in
                {"estimate": list(beta), "standard_error": se, "t": t, "p": p, "r2": [r2]}.items()}  # fmt: skip


def column(result: regression.Regression, name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in result.rows])


def difference(ours: np.ndarray | float, other: np.ndarray | float) -> float:
    a, b = np.atleast_1d(ours), np.atleast_1d(other)
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-300)))  # 1e-300: both p may underflow to 0


def assert_equals_truth(result: regression.Regression, x: np.ndarray, *, within: float = 1e-10) -> None:
    exact = truth(x)
    for name in ("estimate", "standard_error", "t", "p"):
        assert difference(column(result, name), exact[name]) <= within, name
    assert difference(result.r_squared, exact["r2"]) <= within


def assert_equals_statsmodels(result: regression.Regression, x: np.ndarray, *, within: float = 1e-10) -> None:
    theirs = sm.OLS(x[:, -1], sm.add_constant(x[:, :-1])).fit(method="qr")
    for name, values in (
        ("estimate", theirs.params),
        ("standard_error", theirs.bse),
        ("t", theirs.tvalues),
        ("p", theirs.pvalues),
        ("ci_low", theirs.conf_int()[:, 0]),
        ("ci_high", theirs.conf_int()[:, 1]),
    ):
        assert difference(column(result, name), values) <= within, name
    assert difference(result.r_squared, theirs.rsquared) <= within
    assert difference(result.r_squared_adjusted, theirs.rsquared_adj) <= within
    assert difference(result.sigma, math.sqrt(theirs.mse_resid)) <= within
    assert difference(result.f, theirs.fvalue) <= within
    assert difference(result.f_p, theirs.f_pvalue) <= within
    assert (result.n, result.df) == (len(x), int(theirs.df_resid))


def synthetic(rows: int = 300) -> np.ndarray:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(rows, 5)) * [1, 20, 1e-4, 3, 1] + [0, 60, 0.01, -5, 0]
    x[:, 3] += 2 * x[:, 0]
    x[:, 4] = 3 + 0.5 * x[:, 0] - 0.03 * x[:, 1] + 900 * x[:, 2] + 0.1 * x[:, 3] + rng.normal(size=rows)
    return x


def test_pooled_fit_equals_statsmodels_on_synthetic_rows() -> None:
    x = synthetic()
    assert_equals_statsmodels(fit(x), x)


def test_pooled_fit_equals_sixty_digit_arithmetic_on_synthetic_rows() -> None:
    x = synthetic()
    assert_equals_truth(fit(x), x)


def test_fit_does_not_depend_on_how_patients_are_dealt_to_hospitals() -> None:
    x = synthetic()
    bounds = [(-1000.0, 1000.0)] * 5
    results = [repr(fit(x[np.random.default_rng(h).permutation(len(x))], bounds=bounds, hospitals=h)) for h in (2, 3, 9)]
    assert len(set(results)) == 1


def test_variance_inflation_equals_its_definition() -> None:
    x = synthetic()
    for j, row in enumerate(fit(x).rows[1:]):
        others = np.delete(x[:, :-1], j, axis=1)
        assert row.vif == pytest.approx(1 / (1 - sm.OLS(x[:, j], sm.add_constant(others)).fit().rsquared), rel=1e-10)
    assert math.isnan(fit(x).rows[0].vif)


def test_condition_number_equals_ratio_of_singular_values() -> None:
    x = synthetic()
    z = x[:, :-1] - x[:, :-1].mean(axis=0)
    values = np.linalg.svd(z / np.linalg.norm(z, axis=0), compute_uv=False)
    assert fit(x).condition_number == pytest.approx(values[0] / values[-1], rel=1e-10)


def test_fit_of_wdbc_equals_statsmodels() -> None:
    frame = pd.read_csv(real("wdbc.csv"))
    x = frame[["mean texture", "mean smoothness", "mean compactness", "target", "mean area"]].to_numpy(float)
    assert_equals_statsmodels(fit(x), x)
    assert_equals_truth(fit(x), x)


def test_fit_of_29_collinear_wdbc_columns_equals_sixty_digit_arithmetic() -> None:
    frame = pd.read_csv(real("wdbc.csv")).drop(columns=["target", "diagnosis"])
    x = frame[[c for c in frame if c != "mean area"] + ["mean area"]].to_numpy(float)
    result = fit(x)
    assert result.condition_number > 100
    assert_equals_truth(result, x)


def test_fit_of_lidc_readings_equals_statsmodels() -> None:
    frame = pd.read_csv(real("lidc_params.csv.gz"))
    x = frame[["diam_mm", "short_mm", "volume_mm3", "thick", "contrast", "spiculation", "malignancy"]].to_numpy(float)
    assert_equals_statsmodels(fit(x), x)


def test_fit_of_four_heart_hospitals_equals_statsmodels() -> None:
    frame = pd.read_csv(real("heart-disease-4-hospitals.csv"))
    wanted = frame[["age", "trestbps", "chol", "thalch", "oldpeak"]]
    x = wanted[(wanted["chol"] > 0) & (wanted["trestbps"] > 0)].dropna().to_numpy(float)
    assert_equals_statsmodels(fit(x), x)


def test_ill_conditioned_fit_keeps_ten_digits_and_says_how_ill() -> None:
    rng = np.random.default_rng(5)
    a = np.round(rng.normal(size=400), 3)
    x = np.column_stack([a, a + np.round(rng.normal(size=400) * 1e-2, 4), rng.normal(size=400)])
    result = fit(x)
    assert_equals_truth(result, x)
    assert result.condition_number > 100
    assert result.rows[1].vif > 1e3


def test_very_small_p_value_is_not_zero() -> None:
    x = synthetic(400)
    x[:, -1] = x[:, 0] * 4 + np.random.default_rng(1).normal(size=400)
    assert 0 < fit(x).rows[1].p < 1e-200


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_aliased_predictor_is_named_and_has_no_number(scale: float) -> None:
    x = synthetic()
    x = np.column_stack([x[:, 0], x[:, 1], scale * (x[:, 0] - 0.3 * x[:, 1]), x[:, 4]])
    with pytest.raises(NotEstimable, match="v2: aliased") as raised:
        fit(x)
    assert (raised.value.diagnosis, raised.value.term) == ("aliased", "v2")


def test_predictor_that_equals_an_earlier_one_bit_for_bit_is_aliased() -> None:
    x = synthetic()
    with pytest.raises(NotEstimable, match="v1: aliased"):
        fit(np.column_stack([x[:, 0], x[:, 0], x[:, 4]]))


@pytest.mark.parametrize(("constant", "term"), [(1, "v1"), (4, "v4")])
def test_constant_column_is_named(constant: int, term: str) -> None:
    x = synthetic()
    x[:, constant] = 0.1
    with pytest.raises(NotEstimable, match=f"{term}: constant"):
        fit(x)


def test_perfect_fit_is_named_instead_of_infinite_t() -> None:
    x = synthetic()
    x[:, 4] = 1 + 2 * x[:, 0] - x[:, 3]
    with pytest.raises(NotEstimable, match="perfect fit"):
        fit(x)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_too_few_rows_are_named(rows: int) -> None:
    with pytest.raises(NotEstimable, match="too few rows"):
        fit(synthetic()[:rows], bounds=[(-1000.0, 1000.0)] * 5)


def test_smallest_possible_table_is_fitted() -> None:
    assert fit(synthetic()[:6], bounds=[(-1000.0, 1000.0)] * 5).df == 1


@pytest.mark.parametrize(
    ("outcome", "predictors"), [("v4", []), ("v4", ["v0", "v0"]), ("v4", ["v4"]), ("v4", ["height"]), ("weight", ["v0"])]
)
def test_names_that_are_unknown_repeated_or_absent_are_refused(outcome: str, predictors: list[str]) -> None:
    with pytest.raises(ConfigError):
        regression.fit(pooled(synthetic()), outcome=outcome, predictors=predictors)


def test_moments_of_no_possible_table_are_refused() -> None:
    one, most = 10**30, 9 * 10**29  # every pair is possible, the three together are not
    cross = ((one, most, most), (most, one, -most), (most, -most, one))
    held = Moments(columns=("v0", "v1", "v2"), n=10, exponents=(0, 0, 0), sums=(0, 0, 0), cross=cross)
    with pytest.raises(ProtocolError):
        regression.fit(held, outcome="v2", predictors=["v0", "v1"])


def test_plain_result_has_no_nan_and_every_field() -> None:
    plain = fit(synthetic()).plain()
    assert plain["rows"][0]["vif"] is None
    assert set(plain) == {field.name for field in fields(regression.Regression)}
