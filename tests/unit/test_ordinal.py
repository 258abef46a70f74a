"""Proportional odds from sums equal the maximum of the pooled likelihood at 40 digits."""

import mpmath as mp
import numpy as np
import pytest
from statsmodels.miscmodels.ordinal_model import OrderedModel

from common.errors import ConfigError, NotEstimable
from server.infer import ordinal
from tests.pooling import columns, drive, rows_of, split


def graded(n: int = 160, seed: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    size, age = rng.normal(12, 4, n), rng.normal(60, 9, n)
    latent = 0.25 * size + 0.02 * age + rng.logistic(size=n)
    return {"grade": np.digitize(latent, [3.3, 4.4, 5.6]).astype(float), "size": size, "age": age}


def run(table: dict[str, np.ndarray], *, levels: int = 4, seed: int = 0) -> ordinal.Ordinal:
    rows = rows_of(table)
    spec = ordinal.Spec(outcome="grade", levels=levels, predictors=columns(rows, "size", "age"))
    return drive(ordinal.fit(spec), split(rows, seed=seed))


def truth(table: dict[str, np.ndarray], start: list[float]) -> tuple[list[float], list[float], float]:
    """Parameters, errors and log-likelihood by Newton's method at 40 digits, derivatives by differences of 1e-12 steps."""
    with mp.workdps(40):
        x = [[mp.mpf(a), mp.mpf(b)] for a, b in zip(table["size"].tolist(), table["age"].tolist(), strict=True)]
        grade = table["grade"].astype(int).tolist()

        def score(b: list) -> tuple[list, mp.mpf]:
            total, like = [mp.mpf(0)] * 5, mp.mpf(0)
            for row, g in zip(x, grade, strict=True):
                shift = row[0] * b[3] + row[1] * b[4]
                high = 1 / (1 + mp.exp(shift - b[g])) if g < 3 else mp.mpf(1)
                low = 1 / (1 + mp.exp(shift - b[g - 1])) if g else mp.mpf(0)
                p, dh, dl = high - low, high * (1 - high), low * (1 - low)
                like += mp.log(p)
                if g < 3:
                    total[g] += dh / p
                if g:
                    total[g - 1] -= dl / p
                for j in range(2):
                    total[3 + j] -= row[j] * (dh - dl) / p
            return total, like

        b = [mp.mpf(v) for v in start]
        h = mp.mpf(10) ** -12
        for _ in range(2):
            base, like = score(b)
            hessian = mp.matrix(5, 5)
            for j in range(5):
                up, _l = score([v + h * (i == j) for i, v in enumerate(b)])
                down, _l = score([v - h * (i == j) for i, v in enumerate(b)])
                for i in range(5):
                    hessian[i, j] = (up[i] - down[i]) / (2 * h)
            inverse = mp.inverse(-hessian)
            b = [v + d for v, d in zip(b, inverse * mp.matrix(base), strict=True)]
        return [float(v) for v in b], [float(mp.sqrt(inverse[i, i])) for i in range(5)], float(like)


def test_proportional_odds_equal_forty_digit_arithmetic() -> None:
    table = graded()
    result = run(table)
    every = [*result.thresholds, *result.rows]
    parameters, errors, likelihood = truth(table, [r.estimate for r in every])
    assert np.allclose([r.estimate for r in every], parameters, rtol=1e-10, atol=0)
    assert np.allclose([r.standard_error for r in every], errors, rtol=1e-10, atol=0)
    assert np.isclose(result.log_likelihood, likelihood, rtol=1e-12, atol=0)
    assert sum(result.level_counts) == result.n == len(table["grade"])
    with mp.workdps(40):
        z = [mp.mpf(b) / mp.mpf(e) for b, e in zip(parameters, errors, strict=True)]
        null = mp.fsum(n * mp.log(mp.mpf(n) / result.n) for n in result.level_counts)
        chi2 = 2 * (mp.mpf(likelihood) - null)
        tails = [float(mp.erfc(abs(v) / mp.sqrt(2))) for v in z]
        chi2_p = float(mp.exp(-chi2 / 2))  # two degrees of freedom
    assert np.allclose([r.p for r in every], tails, rtol=1e-10, atol=0)
    assert np.allclose([result.chi2, result.chi2_p], [float(chi2), chi2_p], rtol=1e-10, atol=0)


def test_proportional_odds_agree_with_statsmodels_optimiser() -> None:
    table = graded()
    result = run(table)
    oracle = OrderedModel(table["grade"], np.column_stack([table["size"], table["age"]]), distr="logit").fit(
        disp=0, method="bfgs"
    )
    assert np.allclose([r.estimate for r in result.rows], oracle.params[:2], rtol=1e-3)


def test_any_split_gives_the_same_fit() -> None:
    table = graded()
    assert run(table, seed=0) == run(table, seed=5)


def test_hopeless_grades_are_named() -> None:
    table = graded()
    n = len(table["grade"])
    for changed, levels, diagnosis in (
        (table, 3, "another level"),
        (table, 5, "too few patients"),
        (table | {"age": table["size"] * 3}, 4, "aliased"),
        (table | {"grade": np.argsort(np.argsort(table["size"])) * 4 // n * 1.0}, 4, "separated"),
    ):
        with pytest.raises(NotEstimable) as caught:
            run(changed, levels=levels)
        assert caught.value.diagnosis == diagnosis
    with pytest.raises(ConfigError):
        ordinal.Spec(outcome="grade", levels=1, predictors=columns(rows_of(table), "age"))
