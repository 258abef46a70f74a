"""K-means and mixtures from sums per cluster take the very path of the pooled algorithms."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.vq import kmeans2
from scipy.stats import norm

from common.errors import ConfigError, NotEstimable
from server.infer import cluster
from tests.pooling import columns, drive, rows_of, split

DATA = Path(os.environ.get("MOTET_TEST_DATA", str(Path(__file__).parents[3] / "shared" / "data")))


def blobs(n: int = 240) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(10)
    of = rng.integers(0, 3, n)
    centres = np.array([[0.0, 0.0], [5.0, 4.0], [11.0, 7.0]])
    x = centres[of] + rng.normal(size=(n, 2)) * [1.0, 1.5]
    return {"length": x[:, 0] * 10 + 50, "density": x[:, 1] * 100 - 300}


def spec(rows: object, *names: str, sizes: tuple[int, ...] = (2, 3, 4)) -> cluster.Spec:
    return cluster.Spec(columns=columns(rows, *names), sizes=sizes)


def test_kmeans_equals_pooled_lloyd_from_the_same_public_seeds() -> None:
    table = blobs()
    rows = rows_of(table)
    result = drive(cluster.fit(spec(rows, "length", "density")), split(rows))
    x = np.column_stack(list(table.values()))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    axis = np.abs(vectors[:, -1]) * np.sqrt(values[-1])
    centres, labels = kmeans2(z, np.outer(norm.ppf((np.arange(3) + 0.5) / 3), axis), iter=50, minit="matrix")
    assert result.k == 3
    assert np.allclose(result.centres, centres * x.std(axis=0) + x.mean(axis=0), rtol=1e-10)
    assert np.array_equal(result.members, np.bincount(labels))
    distance = np.linalg.norm(z[:, None] - centres[None], axis=2)
    near, other = np.sort(distance, axis=1)[:, :2].T
    assert np.isclose(result.silhouette, (1 - near / other).mean(), rtol=1e-10)
    assert np.isclose(result.within, (near**2).sum(), rtol=1e-10)


def test_any_split_gives_the_same_clusters() -> None:
    rows = rows_of(blobs())
    asked = spec(rows, "length", "density")
    assert drive(cluster.fit(asked), split(rows, seed=1)) == drive(cluster.fit(asked), split(rows, seed=2))


def test_clusters_of_the_breast_aspirates_are_a_fixed_point_of_pooled_kmeans() -> None:
    path = DATA / "wdbc.csv"
    if not path.exists():
        pytest.skip("needs wdbc.csv under MOTET_TEST_DATA")
    frame = pd.read_csv(path)
    names = [name for name in frame.columns if frame[name].dtype == float][:10]
    rows = rows_of({name: frame[name].to_numpy(float) for name in names})
    renamed = type(rows)(names=tuple(f"v{i}" for i in range(10)), values=rows.values, lower=rows.lower, upper=rows.upper)
    result = drive(cluster.fit(spec(renamed, *renamed.names, sizes=(2,))), split(renamed))
    x = frame[names].to_numpy(float)
    z, centres = (x - x.mean(axis=0)) / x.std(axis=0), (np.array(result.centres) - x.mean(axis=0)) / x.std(axis=0)
    again, labels = kmeans2(z, centres, iter=1, minit="matrix")
    assert np.allclose(again, centres, rtol=1e-10, atol=1e-12)
    assert np.array_equal(np.bincount(labels), result.members)


def test_mixture_equals_pooled_em_round_by_round() -> None:
    table = blobs()
    rows = rows_of(table)
    result = drive(cluster.mixture(spec(rows, "length", "density", sizes=(3,))), split(rows))
    x = np.column_stack(list(table.values()))
    first = drive(cluster.fit(spec(rows, "length", "density", sizes=(3,))), split(rows))
    weights, means = np.array(first.members) / len(x), np.array(first.centres)
    variances = np.tile(x.var(axis=0), (3, 1))
    before = -np.inf
    while True:
        density = np.log(weights) + norm.logpdf(x[:, None], means, np.sqrt(variances)).sum(axis=2)
        likelihood = float(np.logaddexp.reduce(density, axis=1).sum())
        if likelihood - before < 1e-10 * len(x):
            break
        before = likelihood
        r = np.exp(density - np.logaddexp.reduce(density, axis=1)[:, None])
        weights, means = r.mean(axis=0), r.T @ x / r.sum(axis=0)[:, None]
        variances = np.stack([(r[:, [c]] * (x - means[c]) ** 2).sum(axis=0) / r[:, c].sum() for c in range(3)])
    assert np.isclose(result.log_likelihood, likelihood, rtol=1e-10)
    assert np.allclose(result.weights, weights, rtol=1e-9)
    assert np.allclose(result.means, means, rtol=1e-9)
    assert np.allclose(result.standard_deviations, np.sqrt(variances), rtol=1e-9)
    assert np.isclose(result.bic, 14 * np.log(len(x)) - 2 * likelihood, rtol=1e-10)


def test_hopeless_clusters_are_named_and_wrong_specifications_refused() -> None:
    table = blobs()
    rows = rows_of(table | {"flat": np.ones(240)})
    with pytest.raises(NotEstimable) as caught:
        drive(cluster.fit(spec(rows, "length", "flat")), split(rows))
    assert (caught.value.diagnosis, caught.value.term) == ("constant", "flat")
    tight = rows_of({"x": np.repeat([0.0, 10.0], 50), "y": np.repeat([1.0, 3.0], 50)})
    with pytest.raises(NotEstimable) as caught:
        drive(cluster.fit(spec(tight, "x", "y", sizes=(5,))), split(tight))
    assert caught.value.diagnosis == "no convergence"
    with pytest.raises(NotEstimable) as caught:
        drive(cluster.mixture(spec(tight, "x", "y", sizes=(2,))), split(tight))
    assert caught.value.diagnosis == "collapsed"
    for sizes in ((), (1,), (65,)):
        with pytest.raises(ConfigError):
            spec(rows, "length", sizes=sizes)
