"""Intervals of eigenvalues and loadings from a noisy Gram hold as promised, also where eigenvalues are equal.

Normal rows within boxes of three standard deviations, clipped at what one in 1000 exceeds, one release at (epsilon, 1e-6).
"""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common.errors import NotEstimable
from common.noisy_moments import NoisyMoments
from server.infer.private import components
from tests import noisy

pytestmark = [pytest.mark.statistical, pytest.mark.long]

REPETITIONS = 800
DRAWS = 199
APART = np.array(
    [[1, 0.8, 0.6, 0.1, 0.2], [0.8, 1, 0.5, 0.2, 0.1], [0.6, 0.5, 1, 0, 0.3], [0.1, 0.2, 0, 1, 0.5], [0.2, 0.1, 0.3, 0.5, 1]]
)
EQUAL = 0.3 * np.ones((5, 5)) + 0.7 * np.eye(5)
NAMES = ("a", "b", "c", "d", "e")


def rows(count: int, *, root: np.ndarray, random: Any) -> np.ndarray:
    z = random.standard_normal((count + count // 4 + 60, 5)) @ root.T / 3
    return z[(np.abs(z) <= 1).all(axis=1)][:count]


def releases(matrix: np.ndarray, *, n: int, epsilon: float, random: Any) -> tuple[np.ndarray, np.ndarray, list[NoisyMoments]]:
    root = np.linalg.cholesky(matrix)
    many = rows(800_000, root=root, random=random)
    values, vectors = np.linalg.eigh(np.corrcoef(many.T))
    clip = math.sqrt(np.quantile(1 + (many**2).sum(axis=1), 0.999))
    sigma, made = clip**2 * noisy.multiplier(epsilon), []
    for _ in range(REPETITIONS):
        exact = noisy.gram(rows(n, root=root, random=random), clip_norm=clip)
        drawn = noisy.noise(6, sigma=sigma, random=random)
        made.append(noisy.moments(exact + drawn, names=NAMES, sigma=sigma, clip_norm=clip))
    return values[::-1], vectors[:, ::-1], made


def hits(values: np.ndarray, vectors: np.ndarray, made: list[NoisyMoments]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {"alone": [], "several": [], "loadings": [], "naive": []}
    for one in made:
        try:
            said = components.analyse(one, names=NAMES, draws=DRAWS)
        except NotEstimable:  # noise made an eigenvalue negative
            continue
        for row in said["rows"]:
            ends = [int(part) for part in row["component"].split(" to ")]
            true = float(values[ends[0] - 1 : ends[-1]].sum())
            found["alone" if len(ends) == 1 else "several"].append(row["ci_low"] <= true <= row["ci_high"])
            if len(ends) == 1:
                anderson = math.exp(float(stats.norm.isf(0.025)) * math.sqrt(2 / said["n"]))
                found["naive"].append(row["eigenvalue"] / anderson <= true <= row["eigenvalue"] * anderson)
        for label in {row["component"] for row in said["loadings"]}:
            told = [row for row in said["loadings"] if row["component"] == label]
            true = vectors[:, int(label) - 1]
            true = true * np.sign(true @ [row["loading"] for row in told])
            found["loadings"] += [row["ci_low"] <= one <= row["ci_high"] for row, one in zip(told, true, strict=True)]
    return found


@pytest.mark.parametrize(("n", "epsilon", "naive_most"), [(1000, 4, 0.9), (3000, 1, 0.75), (3000, 4, 0.94)])
def test_intervals_of_eigenvalues_and_loadings_cover_as_promised(n: int, epsilon: float, naive_most: float) -> None:
    found = hits(*releases(APART, n=n, epsilon=epsilon, random=np.random.default_rng([21, n, epsilon])))
    told = {key: f"{np.mean(held):.3f} of {len(held)}" for key, held in found.items() if held}
    print(f"n {n} epsilon {epsilon}: {told}")
    for key in ("alone", "loadings"):
        assert 0.93 <= np.mean(found[key]) <= 0.97
    assert len(found["alone"]) > 2.9 * REPETITIONS
    assert np.mean(found["naive"]) < naive_most


@pytest.mark.parametrize(("n", "epsilon"), [(3000, 1), (3000, 4)])
def test_equal_eigenvalues_are_told_together_and_their_sum_covers_as_promised(n: int, epsilon: float) -> None:
    found = hits(*releases(EQUAL, n=n, epsilon=epsilon, random=np.random.default_rng([22, n, epsilon])))
    told = {key: f"{np.mean(held):.3f} of {len(held)}" for key, held in found.items() if held}
    print(f"n {n} epsilon {epsilon}: {told}")
    for key in ("alone", "several", "loadings"):
        assert 0.93 <= np.mean(found[key]) <= 0.97
    assert len(found["several"]) < 1.05 * REPETITIONS
