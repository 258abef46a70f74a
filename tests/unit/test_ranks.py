"""Rank statistics and quantiles from public histograms equal scipy's on the pooled rows."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.errors import ConfigError, NotEstimable
from server.infer import quantiles, ranks, spearman
from tests.pooling import drive, rows_of, split

DATA = Path(os.environ.get("MOTET_TEST_DATA", str(Path(__file__).parents[3] / "shared" / "data")))


def table(n: int = 250, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 3, n).astype(float)
    grade = np.clip(np.rint(rng.normal(2 + 0.6 * arm, 1.5)), 0, 8)
    size = np.rint(10 * rng.lognormal(2, 0.4, n) + 3 * grade)
    size[::17] = np.nan
    return {"arm": arm, "grade": grade, "size": size, "noise": rng.integers(0, 30, n).astype(float)}


def whole(top: int) -> tuple[float, ...]:
    """A grid that tells whole numbers apart."""
    return tuple((np.arange(top + 2) - 0.5).tolist())


def test_kruskal_wallis_equals_scipy() -> None:
    data = table()
    result = drive(ranks.fit(ranks.Spec(response="grade", grid=whole(8), group="arm", levels=3)), split(rows_of(data)))
    oracle = stats.kruskal(*(data["grade"][data["arm"] == g] for g in range(3)))
    assert np.allclose([result.h, result.p], oracle, rtol=1e-10)
    assert result.mann_whitney is None


def test_mann_whitney_equals_scipy() -> None:
    data = table()
    data["arm"] = np.minimum(data["arm"], 1)
    result = drive(ranks.fit(ranks.Spec(response="grade", grid=whole(8), group="arm", levels=2)), split(rows_of(data)))
    a, b = data["grade"][data["arm"] == 1], data["grade"][data["arm"] == 0]
    oracle = stats.mannwhitneyu(a, b, method="asymptotic")
    assert result.mann_whitney is not None
    assert np.allclose([result.mann_whitney.u, result.mann_whitney.p], [oracle.statistic, oracle.pvalue], rtol=1e-10)


def test_superiority_of_every_pair_has_delongs_interval() -> None:
    data = table()
    result = drive(ranks.fit(ranks.Spec(response="grade", grid=whole(8), group="arm", levels=3)), split(rows_of(data)))
    assert [(pair.first, pair.second) for pair in result.pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in result.pairs:
        low, high = (data["grade"][data["arm"] == group] for group in (pair.first, pair.second))
        above = (high[:, None] > low[None, :]) + (high[:, None] == low[None, :]) / 2
        auc = above.mean()
        error = np.sqrt(above.mean(axis=1).var(ddof=1) / len(high) + above.mean(axis=0).var(ddof=1) / len(low))
        reach = stats.norm.isf(0.025) * error / (auc * (1 - auc))  # symmetric on the logit scale
        ends = [1 / (1 + np.exp(-(np.log(auc / (1 - auc)) + way * reach))) for way in (-1, 1)]
        assert np.allclose([pair.superiority, pair.superiority_low, pair.superiority_high], [auc, *ends], rtol=1e-10)


def test_spearman_equals_scipy_and_is_the_same_for_any_split() -> None:
    data = table()
    names, grids = ("grade", "size", "noise"), (whole(8), whole(600), whole(30))
    results = [drive(spearman.fit(spearman.Spec(names=names, grids=grids)), split(rows_of(data), seed=s)) for s in range(2)]
    kept = ~np.isnan(data["size"])
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            r, p = stats.spearmanr(data[a][kept], data[b][kept])
            assert np.allclose([results[0].r[i, j], results[0].p_values[i, j]], [r, p], rtol=1e-10)
    assert results[0].n == int(kept.sum())
    assert results[0].r.tobytes() == results[1].r.tobytes()
    assert (results[0].ci_low <= results[0].r).all()


def test_perfect_ranks_are_one_and_constant_columns_are_named() -> None:
    x = np.arange(20.0)
    rows = rows_of({"x": x, "cubed": x**3, "flat": np.full(20, 2.0)})
    spec = spearman.Spec(names=("x", "cubed", "flat"), grids=(whole(20), (-1.0, *(x**3 + 0.5).tolist(), 9e4), (0.0, 1.0, 3.0)))
    result = drive(spearman.fit(spec), split(rows))
    assert result.r[0, 1] == 1.0
    assert result.constant == ("flat",)


def test_a_grid_that_is_too_narrow_is_named() -> None:
    with pytest.raises(NotEstimable) as caught:
        drive(spearman.fit(spearman.Spec(names=("grade", "noise"), grids=(whole(8), whole(10)))), split(rows_of(table())))
    assert caught.value.diagnosis == "outside the grid"


def test_groups_without_patients_and_columns_without_spread_are_named() -> None:
    data = table()
    for spec, diagnosis in (
        (ranks.Spec(response="grade", grid=whole(8), group="arm", levels=4), "empty group"),
        (ranks.Spec(response="grade", grid=(-1.0, 100.0), group="arm", levels=3), "constant"),
    ):
        with pytest.raises(NotEstimable) as caught:
            drive(ranks.fit(spec), split(rows_of(data)))
        assert caught.value.diagnosis == diagnosis


def test_quantiles_hold_the_pooled_ones_and_never_an_extreme() -> None:
    x = np.random.default_rng(5).lognormal(2, 0.7, 500)
    spec = quantiles.Spec(name="x", grid=tuple(np.linspace(0, 100, 201).tolist()), probabilities=(0.001, 0.1, 0.5, 0.9, 0.999))
    result = drive(quantiles.fit(spec), split(rows_of({"x": x})))
    assert result.n + result.outside == 500
    for one in result.quantiles:
        if one.probability in {0.001, 0.999}:
            assert one.estimate is None
            assert one.diagnosis == "too few patients beside it"
        else:
            truth = np.quantile(x[x <= 100], one.probability, method="inverted_cdf")
            assert one.low <= truth < one.high
            assert one.low <= one.estimate <= one.high
    assert np.array_equal(result.counts, np.histogram(x, bins=spec.grid)[0])


def test_minimum_and_maximum_cannot_be_asked_for() -> None:
    for probability in (0.0, 1.0):
        with pytest.raises(ConfigError):
            quantiles.Spec(name="x", grid=(0.0, 1.0), probabilities=(probability,))


def test_lesion_readings_have_their_known_rank_correlations_with_malignancy() -> None:
    path = DATA / "lidc_params.csv.gz"
    if not path.exists():
        pytest.skip("needs lidc_params.csv.gz under MOTET_TEST_DATA")
    frame = pd.read_csv(path)
    names, known = ("malignancy", "diam_mm", "spiculation", "texture"), (0.469, 0.397, -0.135)
    rows = rows_of({name: frame[name].to_numpy(float) for name in names})
    fine = tuple(np.linspace(-200, 400, 4097).tolist())
    spec = spearman.Spec(names=names, grids=(whole(6), fine, whole(6), whole(6)))
    hospitals = [rows.part((pd.cut(frame["thick"], [0, 1, 1.5, 2, 2.5, 9]).cat.codes == h).to_numpy()) for h in range(5)]
    result = drive(spearman.fit(spec), hospitals)
    binned = frame["diam_mm"].map(lambda v: np.searchsorted(fine, v, side="right"))
    r, p = stats.spearmanr(frame["malignancy"], binned)
    assert np.allclose([result.r[0, 1], result.p_values[0, 1]], [r, p], rtol=1e-10, atol=0)
    assert np.allclose(result.r[0, 1:], known, atol=2e-3)
    assert result.n == len(frame) == 6859
