"""How `make bench-training` finds every row's learning rate and clip norm: successive halving on held-out fifths.

The rule, the same for all rows and all epsilons: every point of the grid is trained on 10 fifths, the better half on 20 more,
the better half of these on 40 more; the best mean AUC over all its fifths wins. A fifth is drawn from the training part by its
number, so that rows and points are compared on the same patients. The test part is not looked at. Pooled and local rows repeat
their noise too from point to point; Motet's is secret and new each time, which makes its search the noisier one.

The numbers were set on the training part alone, with the pooled row: with 5 fifths for every point, the point chosen loses by
chance 0.0001 to 0.005 of held-out AUC to the best one (lidc at epsilon 1 the most), where the bar on the ratio leaves 0.004;
halving on 8, 16 and 32 fifths, less than 0.0005.
Source: Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016.
"""

import numpy as np

from tests.benchmarks.utility_rows import run

LEARNING_RATES, CLIP_NORMS = ("0.1", "0.3", "1", "3", "10", "30"), ("0.25", "1")
ADAM_RATES = ("0.003", "0.01", "0.03", "0.1", "0.3", "1")
FIFTHS = (10, 20, 40)  # multiples of five: the hospitals alone take turns
FIRST_FIFTH = 10_000  # the seeds of fifths are apart from those of the test part


def grid(optimiser):
    rates = LEARNING_RATES if optimiser == "momentum" else ADAM_RATES
    return [(rate, clip) for rate in rates for clip in CLIP_NORMS]


def runs(points, *, fifths=FIFTHS):
    """How many models the search over so many points trains."""
    found = 0
    for more in fifths:
        found += points * more
        points = -(-points // 2)
    return found


def halved(points, *, score, fifths=FIFTHS):
    """The best point and its scores; `score(point, seed)` is higher where better."""
    left, scores, seed = list(points), {point: [] for point in points}, FIRST_FIFTH
    for more in fifths:
        for point in left:
            scores[point] += [score(point, at) for at in range(seed, seed + more)]
        seed += more
        best = sorted(left, key=lambda point: np.mean(scores[point]), reverse=True)
        left = best[: -(-len(left) // 2)]
    return best[0], scores[best[0]]


def search(row, data, *, points, setting, spent, fifths=FIFTHS):
    """A row's best setting (`setting` makes one of a point), and its AUC on each held-out fifth."""

    def score(point, seed):
        found = run(row, data, setting=setting(point), seed=seed, tuning=True)
        spent(row, data)
        return found

    best, scores = halved(points, score=score, fifths=fifths)
    return setting(best), scores


def told(points, *, fifths=FIFTHS):
    """The rule, for the report."""
    return {
        "grid": [{"learning_rate": rate, "clip_norm": clip} for rate, clip in points],
        "fifths": list(fifths),
        "chosen_by": "mean AUC on held-out fifths of the training part, the same for all rows; "
        "after each number of fifths the better half of the points goes on",
        "charged": False,
    }
