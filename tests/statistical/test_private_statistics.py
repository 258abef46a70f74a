"""Intervals and tests from a noisy Gram hold what they promise; intervals which ignore the noise do not.

Rows are normal, within boxes of three standard deviations, clipped, summed; the noise is that of (epsilon, 1e-6), one release.
True values are those of two million rows within the boxes, not clipped.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from common.errors import NotEstimable
from common.noisy_moments import NoisyMoments
from server.infer.private import bootstrap, correlation, least_squares, table_one
from server.infer.private.bootstrap import Hypothesis
from tests import noisy, tables

pytestmark = [pytest.mark.statistical, pytest.mark.long]

REPETITIONS = 1000
PREDICTORS = ("a", "b", "c", "d")
NAMES = (*PREDICTORS, "y")
CLIP = math.sqrt(2.5)  # |v|**2 is 1.56 on average; 2 % of the rows are longer
SLOPES = np.array([0.3, -0.2, 0.1, 0.0])
AMONG = 0.3 * np.ones((4, 4)) + 0.7 * np.eye(4)


def rows(count: int, *, random: np.random.Generator) -> np.ndarray:
    x = random.standard_normal((count, 4)) @ np.linalg.cholesky(AMONG).T
    y = x @ SLOPES + math.sqrt(1 - SLOPES @ AMONG @ SLOPES) * random.standard_normal(count)
    z = np.column_stack([x, y]) / 3
    return z[(np.abs(z) <= 1).all(axis=1)]


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slopes, correlations and partial correlations of the population."""
    moments = np.cov(rows(2_000_000, random=np.random.default_rng(99)).T)
    precision = np.linalg.inv(moments)
    scale, away = np.sqrt(np.diag(moments)), np.sqrt(np.diag(precision))
    slopes = np.linalg.solve(moments[:4, :4], moments[:4, 4])
    return slopes, moments / np.outer(scale, scale), np.where(np.eye(5) > 0, 1, -precision / np.outer(away, away))


def releases(count: int, *, n: int, epsilon: float, clip: float = CLIP) -> Iterator[NoisyMoments]:
    random, sigma = np.random.default_rng([n, int(epsilon)]), clip**2 * noisy.multiplier(epsilon)
    for _ in range(count):
        exact = noisy.gram(rows(n, random=random), clip_norm=clip)
        yield noisy.moments(exact + noisy.noise(6, sigma=sigma, random=random), names=NAMES, sigma=sigma, clip_norm=clip)


def slopes(count: int, truth: np.ndarray, *, n: int, epsilon: float, clip: float = CLIP) -> tuple[float, float, float]:
    """Return the coverage of the intervals, of naive ones, and the share of releases that were too noisy."""
    made = naive = lost = 0
    for one in releases(count, n=n, epsilon=epsilon, clip=clip):
        try:
            fitted = least_squares.fit(one, outcome="y", predictors=PREDICTORS)
        except NotEstimable:
            lost += 1
            continue
        quantile = float(stats.t.isf(0.025, fitted.df))
        for at, name in enumerate(PREDICTORS):
            found = fitted.form({name: 1.0})
            made += abs(found.value - truth[at]) <= found.reach
            naive += abs(found.value - truth[at]) <= quantile * math.sqrt(fitted.variance * fitted.inverse[at + 1, at + 1])
    left = 4 * (count - lost)
    return made / left, naive / left, lost / count


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "epsilon", "naive_most"), [(1000, 1, 0.6), (1000, 4, 0.9), (3000, 1, 0.8), (3000, 4, 0.94)])
def test_ninety_five_percent_intervals_of_coefficients_cover_as_promised(
    n: int, epsilon: float, naive_most: float, truth: tuple[np.ndarray, ...]
) -> None:
    covered, naive, lost = slopes(REPETITIONS, truth[0], n=n, epsilon=epsilon)
    print(f"n {n} epsilon {epsilon}: {covered:.3f}, naive {naive:.3f}, too noisy {lost:.3f}")
    assert 0.93 <= covered <= 0.97
    assert naive < naive_most
    assert lost < 0.05


@pytest.mark.statistical
@pytest.mark.parametrize("n", [1000, 3000])
@pytest.mark.parametrize("epsilon", [1, 4])
def test_ninety_five_percent_intervals_of_correlations_cover_as_promised(
    n: int, epsilon: float, truth: tuple[np.ndarray, ...]
) -> None:
    hits: dict[str, list[bool]] = {"plain": [], "partial": []}
    above = np.triu_indices(5, 1)
    for one in releases(REPETITIONS, n=n, epsilon=epsilon):
        for key, ask, true in (("plain", correlation.correlate, truth[1]), ("partial", correlation.partial, truth[2])):
            try:
                found = ask(one, names=NAMES)
            except NotEstimable:
                continue
            low, high = (np.array(found[end], float)[above] for end in ("ci_low", "ci_high"))
            hits[key].extend((low <= true[above]) & (true[above] <= high))
    print(f"n {n} epsilon {epsilon}: " + ", ".join(f"{key} {np.mean(held):.3f}" for key, held in hits.items()))
    for held in hits.values():
        assert 0.93 <= np.mean(held) <= 0.97
    assert len(hits["plain"]) > 9.5 * REPETITIONS


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "epsilon"), [(300, 4), (1000, 1), (1000, 4), (3000, 1), (3000, 4)])
def test_f_tests_reject_a_true_null_as_often_as_they_say_and_naive_ones_far_more(n: int, epsilon: float) -> None:
    clip = math.sqrt(3.8)  # indicators are -1 or 1: |v|**2 is 3.2 on average, 2 % of the rows are longer
    random, sigma = np.random.default_rng([7, n, epsilon]), clip**2 * noisy.multiplier(epsilon)
    predictors, rejected, naive, left = ("x", "g1", "g2"), 0, 0, 0
    factor = Hypothesis(name="g", predictors=predictors, forms=({"g1": 1.0}, {"g2": 1.0}))
    for _ in range(REPETITIONS):
        group, x = random.integers(0, 3, n), random.standard_normal(n)
        y = 0.3 * x + random.standard_normal(n)
        z = np.column_stack([np.clip(x / 3, -1, 1), 2 * (group == 1) - 1, 2 * (group == 2) - 1, np.clip(y / 3.2, -1, 1)])
        matrix = noisy.gram(z, clip_norm=clip) + noisy.noise(5, sigma=sigma, random=random)
        one = noisy.moments(matrix, names=(*predictors, "y"), sigma=sigma, clip_norm=clip)
        try:
            fitted = least_squares.fit(one, outcome="y", predictors=predictors)
        except NotEstimable:
            continue
        left += 1
        (row,) = bootstrap.f_tests(one, fitted=fitted, hypotheses=[factor], draws=199)
        rejected += row["p"] <= 0.05
        beta, middle = fitted.beta[2:], np.linalg.inv(fitted.inverse[2:, 2:])
        naive += stats.f.sf(beta @ middle @ beta / 2 / fitted.variance, 2, fitted.df) <= 0.05
    print(f"n {n} epsilon {epsilon}: {rejected / left:.3f}, naive {naive / left:.3f}, too noisy {1 - left / REPETITIONS:.3f}")
    assert left > 0.7 * REPETITIONS
    assert rejected / left <= 0.065
    assert naive > 1.15 * rejected


@pytest.mark.statistical
def test_means_deviations_and_shares_cover_as_promised() -> None:
    study = tables.study({"a": (-1, 1), "b": (-1, 1)}, factors={"g": ["u", "v", "w"]}, descriptive=["a", "g"])
    names, sigma, n = study.columns(), CLIP**2 * noisy.multiplier(1), 1000
    random = np.random.default_rng(5)
    hits: dict[str, list[bool]] = {"mean": [], "sd": [], "share": []}
    spread = float(stats.truncnorm.std(-3, 3)) / 3
    for _ in range(REPETITIONS):
        group = random.choice(3, n, p=[0.5, 0.3, 0.2])
        a = stats.truncnorm.ppf(random.random((n, 2)), -3, 3) / 3
        z = np.column_stack([a, 2 * (group == 1) - 1, 2 * (group == 2) - 1])
        matrix = noisy.gram(z, clip_norm=9.0) + noisy.noise(5, sigma=sigma, random=random)
        one = noisy.moments(matrix, names=names, sigma=sigma, centre=(0, 0, 0.5, 0.5), half=(1, 1, 0.5, 0.5))
        found = table_one.describe(one, study=study, names=["a", "g"])
        (number,) = found["numbers"]
        hits["mean"].append(number["ci_low"] <= 0 <= number["ci_high"])
        hits["sd"].append(number["sd_low"] <= spread <= number["sd_high"])
        for row, true in zip(found["shares"], (0.5, 0.3, 0.2), strict=True):
            hits["share"].append(row["ci_low"] <= true <= row["ci_high"])
    print(", ".join(f"{key} {np.mean(held):.3f}" for key, held in hits.items()))
    assert all(0.93 <= np.mean(held) <= 0.97 for held in hits.values())


@pytest.mark.statistical
def test_a_clip_that_binds_often_costs_coverage_which_is_why_the_plan_warns(truth: tuple[np.ndarray, ...]) -> None:
    rarely, often = (slopes(300, truth[0], n=10_000, epsilon=4, clip=math.sqrt(square))[0] for square in (2.5, 1.4))
    norms = 1 + (rows(100_000, random=np.random.default_rng(1)) ** 2).sum(axis=1)
    shares = [float((norms > square).mean()) for square in (2.5, 1.4)]
    print(f"n 10000 epsilon 4: clip binds for {shares[0]:.1%}: {rarely:.3f}, for {shares[1]:.1%}: {often:.3f}")
    assert shares[0] < 0.05
    assert shares[1] > 0.3
    assert rarely >= 0.93
    assert often < rarely - 0.03


def test_a_hundred_releases_already_show_it(truth: tuple[np.ndarray, ...]) -> None:
    covered, naive, _ = slopes(100, truth[0], n=1000, epsilon=1)
    assert covered > 0.92
    assert naive < 0.6
