"""Pairs of means and Welch's test from a noisy Gram hold for all pairs together; what ignores the noise does not.

Normal outcomes within a box, clipped rows, the noise of (epsilon, 1e-6), one release.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common.errors import NotEstimable
from common.noisy_moments import NoisyMoments
from server.infer import studentized
from server.infer.private import group_sums, least_squares, one_way, simultaneous, welch
from server.infer.private.least_squares import Fit
from tests import noisy

pytestmark = [pytest.mark.statistical, pytest.mark.long]

REPETITIONS = 800
DRAWS = 199  # the level of a test by simulation does not depend on them; its power does
MEANS = np.array([0.0, 0.25, 0.5])
PAIRS = list(itertools.combinations(range(3), 2))
TRUE = np.array([MEANS[j] - MEANS[i] for i, j in PAIRS])
BOX = 3.6  # half width of the outcome's, in standard deviations of a group


def released(n: int, *, epsilon: float, covariate: bool, random: Any) -> tuple[NoisyMoments, tuple[str, ...]]:
    predictors = (*(("x",) if covariate else ()), "g1", "g2")
    clip = math.sqrt(3.9 if covariate else 3.5)  # indicators are -1 or 1: |v|**2 is 3 and the rest; under 1 % are longer
    sigma, group, x = clip**2 * noisy.multiplier(epsilon), random.integers(0, 3, n), random.standard_normal(n)
    y = MEANS[group] + 0.3 * x * covariate + random.standard_normal(n)
    numbers = [np.clip(x / 3, -1, 1)] if covariate else []
    z = np.column_stack([*numbers, 2 * (group == 1) - 1, 2 * (group == 2) - 1, np.clip(y / BOX, -1, 1)])
    matrix = noisy.gram(z, clip_norm=clip) + noisy.noise(len(predictors) + 2, sigma=sigma, random=random)
    return noisy.moments(matrix, names=(*predictors, "y"), sigma=sigma, clip_norm=clip), predictors


def errors(fitted: Fit, *, forms: np.ndarray, sigma: float) -> np.ndarray:
    spread = least_squares.covariance(fitted.beta, inverse=fitted.inverse, variance=fitted.variance, sigma=sigma, forms=forms)
    return np.sqrt(np.diag(spread))


@pytest.mark.parametrize("covariate", [False, True], ids=["one-way", "ancova"])
@pytest.mark.parametrize(("n", "epsilon", "naive_most"), [(1000, 1, 0.75), (1000, 4, 0.94), (3000, 1, 0.9), (3000, 4, 0.96)])
def test_all_intervals_of_tukey_and_kramer_hold_together(n: int, epsilon: float, naive_most: float, covariate: bool) -> None:
    random = np.random.default_rng([11, n, epsilon, covariate])
    held = naive = lost = 0
    range_of_three = studentized.isf(0.05, k=3, df=n) / math.sqrt(2)
    for _ in range(REPETITIONS):
        one, predictors = released(n, epsilon=epsilon, covariate=covariate, random=random)
        try:
            fitted = least_squares.fit(one, outcome="y", predictors=predictors)
        except NotEstimable:
            lost += 1
            continue
        forms = np.zeros((3, len(predictors) + 1))
        for row, pair in zip(forms, PAIRS, strict=True):
            for at, sign in zip(pair, (-1.0, 1.0), strict=True):
                if at:
                    row[len(predictors) - 2 + at] = 2 * BOX * sign  # z of an indicator is 2 d - 1
        away = np.abs(forms @ fitted.beta - TRUE)
        (drawn,) = simultaneous.largest(one, fitted=fitted, families=[forms], draws=DRAWS)
        _, critical = simultaneous.adjusted([0.0], drawn=drawn)
        held += critical is None or bool((away <= critical * errors(fitted, forms=forms, sigma=one.sigma)).all())
        naive += bool((away <= range_of_three * errors(fitted, forms=forms, sigma=0.0)).all())
    left = REPETITIONS - lost
    print(f"n {n} epsilon {epsilon}: {held / left:.3f}, naive {naive / left:.3f}, too noisy {lost / REPETITIONS:.3f}")
    assert 0.93 <= held / left <= 0.97
    assert naive / left < naive_most
    assert lost < 0.05 * REPETITIONS


UNEQUAL = (0.9, 1.1, 1.4)


def comparison(n: int, *, epsilon: float, means: np.ndarray, random: Any, sd: tuple[float, ...] = UNEQUAL) -> NoisyMoments:
    """Three groups of unequal sizes; with unequal variances the smallest is the widest: where one for all would fail."""
    box, clip, names = 4.5, 2.2, ("y", "g[b]", "g[c]", "g[b]:y", "g[c]:y")
    sigma, group = clip**2 * noisy.multiplier(epsilon), random.choice(3, n, p=[0.4, 0.35, 0.25])
    y = np.clip(means[group] + np.array(sd)[group] * random.standard_normal(n), -box, box)
    columns = np.column_stack([y, group == 1, group == 2, (group == 1) * y, (group == 2) * y])
    centre, half = (0.0, 0.5, 0.5, 0.0, 0.0), (box, 0.5, 0.5, box, box)
    matrix = noisy.gram((columns - np.array(centre)) / np.array(half), clip_norm=clip)
    drawn = noisy.noise(6, sigma=sigma, random=random)
    return noisy.moments(matrix + drawn, names=names, sigma=sigma, clip_norm=clip, centre=centre, half=half)


def compared(one: NoisyMoments, *, by: Callable[..., dict[str, Any]] = welch.compare) -> dict[str, Any] | None:
    try:
        return by(group_sums.read(one, outcome="y", factor="g", levels=("a", "b", "c")), draws=DRAWS)
    except NotEstimable:
        return None


@pytest.mark.parametrize(("n", "epsilon"), [(3000, 4), (10_000, 1), (10_000, 4)])
def test_means_pairs_and_effects_with_a_variance_per_group_cover_as_promised(n: int, epsilon: float) -> None:
    random, hits = np.random.default_rng([12, n, epsilon]), {"means": [], "pairs": [], "g": []}
    size, sd = np.array([0.4, 0.35, 0.25]), np.array(UNEQUAL)
    pooled = [math.sqrt((size[list(at)] * sd[list(at)] ** 2).sum() / size[list(at)].sum()) for at in PAIRS]
    lost = 0
    for _ in range(REPETITIONS):
        if (made := compared(comparison(n, epsilon=epsilon, means=MEANS, random=random))) is None:
            lost += 1
            continue
        hits["means"] += [row["ci_low"] <= mean <= row["ci_high"] for row, mean in zip(made["means"], MEANS, strict=True)]
        ends = zip(made["pairs"], TRUE, strict=True)
        hits["pairs"].append(all(row["ci_low"] is None or row["ci_low"] <= true <= row["ci_high"] for row, true in ends))
        hits["g"] += [
            row["hedges_g_low"] <= true / spread <= row["hedges_g_high"]
            for row, true, spread in zip(made["pairs"], TRUE, pooled, strict=True)
        ]
    told = ", ".join(f"{key} {np.mean(held):.3f}" for key, held in hits.items())
    print(f"n {n} epsilon {epsilon}: {told}, too noisy {lost / REPETITIONS:.3f}")
    assert all(0.93 <= np.mean(held) <= 0.97 for held in hits.values())
    assert lost < 0.2 * REPETITIONS


@pytest.mark.parametrize(("n", "epsilon", "naive_least"), [(3000, 4, 0.05), (10_000, 1, 0.09)])
def test_welchs_test_rejects_a_true_null_as_often_as_it_says(n: int, epsilon: float, naive_least: float) -> None:
    random, rejected, naive, left = np.random.default_rng([13, n, epsilon]), 0, 0, 0
    for _ in range(2 * REPETITIONS):
        one = comparison(n, epsilon=epsilon, means=np.zeros(3), random=random)
        if (made := compared(one)) is None:
            continue
        left += 1
        rejected += made["rows"][0]["p"] <= 0.05
        size, mean, variance = (np.array([row[key] for row in made["means"]]) for key in ("n", "mean", "sd"))
        weight = size / variance**2
        q = float(weight @ (mean - weight @ mean / weight.sum()) ** 2)
        naive += stats.chi2.sf(q, 2) <= 0.05
    print(
        f"n {n} epsilon {epsilon}: {rejected / left:.3f}, naive {naive / left:.3f}, too noisy {1 - left / 2 / REPETITIONS:.3f}"
    )
    assert left > 1.6 * REPETITIONS
    assert 0.03 <= rejected / left <= 0.07
    assert naive / left > naive_least


@pytest.mark.parametrize(("n", "epsilon"), [(1000, 1), (1000, 4), (3000, 1), (3000, 4)])
def test_one_variance_for_all_groups_covers_and_rejects_as_promised(n: int, epsilon: float) -> None:
    random, hits = np.random.default_rng([14, n, epsilon]), {"means": [], "single": [], "tukey": []}
    rejected = lost = 0
    for _ in range(REPETITIONS):
        made = compared(comparison(n, epsilon=epsilon, means=MEANS, random=random, sd=(1.1,) * 3), by=one_way.compare)
        null = compared(comparison(n, epsilon=epsilon, means=np.zeros(3), random=random, sd=(1.1,) * 3), by=one_way.compare)
        if made is None or null is None:
            lost += 1
            continue
        rejected += null["rows"][0]["p"] <= 0.05
        hits["means"] += [row["ci_low"] <= mean <= row["ci_high"] for row, mean in zip(made["means"], MEANS, strict=True)]
        both = list(zip(made["pairs"], TRUE, strict=True))
        hits["single"] += [row["ci_low"] <= true <= row["ci_high"] for row, true in both]
        hits["tukey"].append(
            all(row["tukey_low"] is None or row["tukey_low"] <= true <= row["tukey_high"] for row, true in both)
        )
    told = ", ".join(f"{key} {np.mean(held):.3f}" for key, held in hits.items())
    print(f"n {n} epsilon {epsilon}: {told}, F {rejected / (REPETITIONS - lost):.3f}, too noisy {lost / REPETITIONS:.3f}")
    assert all(0.93 <= np.mean(held) <= 0.97 for held in hits.values())
    assert 0.03 <= rejected / (REPETITIONS - lost) <= 0.07
    assert lost < 0.1 * REPETITIONS
