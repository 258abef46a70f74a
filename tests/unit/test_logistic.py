"""Pooled logistic regression equals statsmodels; separated classes get Firth's penalty, hopeless ones a name."""

import itertools
import os
from pathlib import Path

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from common.errors import ConfigError, NotEstimable
from server.infer import logistic
from tests.pooling import columns, drive, rows_of, split, table_of

DATA = Path(os.environ.get("MOTET_TEST_DATA", str(Path(__file__).parents[3] / "shared" / "data")))


def simulated(n: int = 400, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    age, size = rng.normal(60, 10, n), rng.lognormal(2, 0.5, n)
    dose = 0.4 * size + rng.normal(0, 1, n)
    y = rng.random(n) < 1 / (1 + np.exp(-(-4 + 0.05 * age + 0.1 * size - 0.2 * dose)))
    return {"y": y.astype(float), "age": age, "size": size, "dose": dose}


def against(result: logistic.Logistic, oracle: object) -> float:
    """The largest relative difference to a statsmodels fit; the null model is in closed form, statsmodels stops early there."""
    y = oracle.model.endog
    null = float((y * np.log(y.mean()) + (1 - y) * np.log(1 - y.mean())).sum())
    chi2 = 2 * (oracle.llf - null)
    pairs = [
        ([r.estimate for r in result.rows], oracle.params),
        ([r.standard_error for r in result.rows], oracle.bse),
        ([r.z for r in result.rows], oracle.tvalues),
        ([r.p for r in result.rows], oracle.pvalues),
        ([r.ci_low for r in result.rows], oracle.conf_int()[:, 0]),
        ([result.log_likelihood, result.chi2, result.chi2_p, result.pseudo_r_squared],
         [oracle.llf, chi2, stats.chi2.sf(chi2, len(oracle.params) - 1), 1 - oracle.llf / null]),
    ]  # fmt: skip
    return max(float(np.max(np.abs(np.array(a) / np.array(b) - 1))) for a, b in pairs)


def test_pooled_logistic_fit_equals_statsmodels_for_any_split() -> None:
    table = simulated()
    rows = rows_of(table)
    spec = logistic.Spec(outcome="y", predictors=columns(rows, "age", "size", "dose"))
    oracle = sm.Logit(table["y"], sm.add_constant(table_of(table)[:, 1:])).fit(disp=0, tol=1e-14, maxiter=50)
    results = [drive(logistic.fit(spec), split(rows, seed=seed)) for seed in range(3)]
    assert against(results[0], oracle) <= 1e-10
    assert results[0] == results[1] == results[2]
    assert results[0].method == "likelihood"
    assert np.allclose([r.ratio for r in results[0].rows], np.exp(oracle.params), rtol=1e-10)


def test_four_heart_hospitals_equal_statsmodels() -> None:
    path = DATA / "heart-disease-4-hospitals.csv"
    if not path.exists():
        pytest.skip("needs heart-disease-4-hospitals.csv under MOTET_TEST_DATA")
    frame = pd.read_csv(path)
    frame = frame.assign(disease=(frame["num"] > 0) * 1.0, male=(frame["sex"] == "Male") * 1.0)
    names = ["disease", "age", "male", "thalch", "oldpeak", "trestbps"]
    rows = rows_of({name: frame[name].to_numpy(float) for name in names})
    hospitals = [rows.part((frame["dataset"] == place).to_numpy()) for place in frame["dataset"].unique()]
    result = drive(logistic.fit(logistic.Spec(outcome="disease", predictors=columns(rows, *names[1:]))), hospitals)
    whole = frame[names].dropna().to_numpy(float)
    assert result.n == len(whole)
    assert against(result, sm.Logit(whole[:, 0], sm.add_constant(whole[:, 1:])).fit(disp=0, tol=1e-14)) <= 1e-10


def penalised(b: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    p = 1 / (1 + np.exp(-x @ b))
    return float(
        -np.logaddexp(0, np.where(y == 1, -x @ b, x @ b)).sum() + np.linalg.slogdet(x.T @ (x * (p * (1 - p))[:, None]))[1] / 2
    )


def modified_score(b: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-x @ b))
    w = p * (1 - p)
    h = w * np.einsum("ij,jk,ik->i", x, np.linalg.inv(x.T @ (x * w[:, None])), x)
    return x.T @ (y - p + h * (0.5 - p))


def test_separated_classes_get_firths_penalty_with_profile_p() -> None:
    rng = np.random.default_rng(4)
    x1, x2 = rng.normal(size=60), rng.normal(size=60)
    table = {"y": (x1 + 0.2 > 0).astype(float), "x1": x1, "x2": x2}
    rows = rows_of(table)
    result = drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, "x1", "x2"))), split(rows))
    x, y = sm.add_constant(table_of(table)[:, 1:]), table["y"]
    root = optimize.root(modified_score, np.array([r.estimate for r in result.rows]) * 0.9, args=(x, y), tol=1e-14)
    assert result.method == "firth"
    assert np.allclose([r.estimate for r in result.rows], root.x, rtol=1e-10)
    p = 1 / (1 + np.exp(-x @ root.x))
    se = np.sqrt(np.diag(np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))))
    assert np.allclose([r.standard_error for r in result.rows], se, rtol=1e-10)
    for j, row in enumerate(result.rows):
        keep = [i for i in range(3) if i != j]
        free = optimize.root(
            lambda b, keep=keep, j=j: modified_score(np.insert(b, j, 0.0), x, y)[keep], root.x[keep] * 0.5, tol=1e-14
        )
        ratio = 2 * (penalised(root.x, x, y) - penalised(np.insert(free.x, j, 0.0), x, y))
        assert np.isclose(row.p, stats.chi2.sf(ratio, 1), rtol=1e-10)


def diagnosis(table: dict[str, np.ndarray], *names: str) -> tuple[str, str]:
    rows = rows_of(table)
    with pytest.raises(NotEstimable) as caught:
        drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, *names))), split(rows))
    return caught.value.diagnosis, caught.value.term


def test_hopeless_data_get_a_named_diagnosis() -> None:
    table = simulated(100)
    n = len(table["y"])
    assert diagnosis(table | {"k": np.full(n, 3.0)}, "age", "k") == ("constant", "k")
    assert diagnosis(table | {"k": table["age"] * 2 - 1}, "age", "k") == ("aliased", "k")
    assert diagnosis(table | {"y": np.ones(n)}, "age") == ("constant", "y")
    assert diagnosis(table | {"y": (np.arange(n) < 3) * 1.0}, "age") == ("too few events", "y")
    assert diagnosis(table | {"y": np.where(np.arange(n) < 2, 1.0, np.nan)}, "age")[0] == "too few rows"


def test_quasi_separation_is_noticed() -> None:
    rng = np.random.default_rng(7)
    group = np.repeat([0.0, 1.0], 50)
    y = np.where(group == 1, 1.0, (rng.random(100) < 0.5) * 1.0)
    rows = rows_of({"y": y, "group": group, "x": rng.normal(size=100)})
    assert (
        drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, "group", "x"))), split(rows)).method == "firth"
    )


def test_a_wrong_specification_is_refused() -> None:
    rows = rows_of(simulated(20))
    for bad in ((), tuple(itertools.repeat(columns(rows, "age")[0], 2)), columns(rows, "y")):
        with pytest.raises(ConfigError):
            logistic.Spec(outcome="y", predictors=bad)


def apart(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a linear programme finds a direction that no patient contradicts (Konis 2007)."""
    signed = (2 * y - 1)[:, None] * x
    found = optimize.linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(y)), bounds=[(-1, 1)] * x.shape[1])
    return -found.fun > 1e-7


def test_separation_is_found_where_a_linear_programme_finds_it() -> None:
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n, p = int(rng.integers(20, 60)), int(rng.integers(1, 5))
        z = rng.normal(size=(n, p))
        y = (rng.random(n) < 1 / (1 + np.exp(-z @ rng.normal(size=p) * rng.uniform(0, 6)))).astype(float)
        if min(y.sum(), n - y.sum()) < 5:
            continue
        x = z * 10 ** rng.uniform(-3, 3, p) + 10 ** rng.uniform(-3, 3, p)
        names = [f"x{i}" for i in range(p)]
        rows = rows_of({"y": y} | {name: x[:, i] for i, name in enumerate(names)}, margin=float(10 ** rng.uniform(-1, 2)))
        result = drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, *names))), [rows])
        assert (result.method == "firth") == apart(sm.add_constant(z), y), seed
        seen.add(result.method)
    assert seen == {"firth", "likelihood"}


def test_near_collinear_aspirates_equal_forty_digit_arithmetic() -> None:
    path = DATA / "wdbc.csv"
    if not path.exists():
        pytest.skip("needs wdbc.csv under MOTET_TEST_DATA")
    frame = pd.read_csv(path)
    names = ["mean radius", "mean perimeter", "mean texture"]
    x, y = frame[names].to_numpy(float), frame["target"].to_numpy(float)
    rows = rows_of({"y": y, "radius": x[:, 0], "perimeter": x[:, 1], "texture": x[:, 2]})
    result = drive(
        logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, "radius", "perimeter", "texture"))), split(rows)
    )
    with mp.workdps(40):
        table = [[mp.mpf(1), *map(mp.mpf, row)] for row in x.tolist()]
        b = [mp.mpf(r.estimate) for r in result.rows]
        for _ in range(2):
            chance = [1 / (1 + mp.exp(-mp.fdot(row, b))) for row in table]
            cols = list(zip(*table, strict=True))
            score = mp.matrix([mp.fsum(v * (t - c) for v, t, c in zip(col, y.tolist(), chance, strict=True)) for col in cols])
            weighted = [[v * c * (1 - c) for v, c in zip(col, chance, strict=True)] for col in cols]
            inverse = mp.inverse(mp.matrix([[mp.fdot(w, col) for col in cols] for w in weighted]))
            b = [v + step for v, step in zip(b, inverse * score, strict=True)]
        errors = [mp.sqrt(inverse[i, i]) for i in range(4)]
    assert np.allclose([r.estimate for r in result.rows], [float(v) for v in b], rtol=1e-10, atol=0)
    assert np.allclose([r.standard_error for r in result.rows], [float(v) for v in errors], rtol=1e-10, atol=0)
