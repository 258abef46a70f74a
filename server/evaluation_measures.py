"""How good a model is, from the tables of an evaluation: measures with 95 % intervals, of exact counts or of noisy ones.

`noise` is the standard deviation of the noise on each number, 0 for exact tables. Counts with noise are used as they are, below
zero too: sums and products of independent numbers stay unbiased. Intervals count both: the patients who were drawn, and noise.
Where a number of patients does not stand out of its noise, the measure is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.evaluate import Z, auc_and_influence, logit_interval

Float = NDArray[np.float64]

GROUPS_MOST: Final = 10  # of a reliability curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measure with its 95 % interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def plain(self) -> dict[str, float | None]:
        """Return the estimate as JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


NONE: Final = Estimate(value=None)


def stands_out(total: float, *, noise: float, cells: int) -> bool:
    """Tell whether a sum of `cells` numbers is above zero, beyond its noise."""
    return total > Z * noise * math.sqrt(cells) and total > 0


def proportion(hits: Float, misses: Float, *, noise: float) -> Estimate:
    """Return the share of hits, with the interval of all shares p for which hits - p (hits + misses) is within its error.

    Its variance under p is n p (1 - p) for the patients, plus that of the noise on every number; without noise this is Wilson's
    interval, with noise it is Fieller's too. Source: Wilson 1927; Fieller 1954.
    """
    x, y, a, b = float(hits.sum()), float(misses.sum()), hits.size, misses.size
    n, square, spread = x + y, Z * Z, Z * Z * noise * noise
    top = n * n + square * n - spread * (a + b)
    if n <= 0 or top <= 0 or not stands_out(n, noise=noise, cells=a + b):
        return NONE
    middle, bottom = 2 * x * n + square * n - 2 * spread * a, x * x - spread * a
    root = math.sqrt(max(0.0, middle * middle - 4 * top * bottom))
    low, high = (middle - root) / (2 * top), (middle + root) / (2 * top)
    return Estimate(value=_clip(x / n), low=_clip(low), high=_clip(high))


def auc(table: Float, *, noise: float) -> Estimate:
    """Return the area under the ROC curve of (no or yes, bin), with DeLong's variance and that of the noise.

    The noise enters the area to first order through each patient's influence, to second order through products of a positive
    and a negative number. The interval is symmetric on the logit scale.
    Source: DeLong, DeLong, Clarke-Pearson 1988; Pepe 2003, 5.2.4 (interval).
    """
    bins = table.shape[1]
    if not all(stands_out(float(side.sum()), noise=noise, cells=bins) for side in table):
        return NONE
    area, variance, of_negative, of_positive = auc_and_influence(table[0], table[1])
    m, n = float(table[1].sum()), float(table[0].sum())
    of_noise = noise**2 * (float(np.square(of_positive).sum()) / m**2 + float(np.square(of_negative).sum()) / n**2)
    of_both = bins * (bins - 1) / 2 * (area**2 + (1 - area) ** 2) + bins * (0.5 - area) ** 2
    of_noise += noise**4 * of_both / (m * n) ** 2
    error = math.sqrt(max(0.0, variance) + of_noise)
    if not 0 < area < 1 or error == 0:
        return Estimate(value=_clip(area))
    low, high = logit_interval(area, error)
    return Estimate(value=area, low=low, high=high)


def roc(table: Float) -> list[tuple[float, float]]:
    """Return the points (1 - specificity, sensitivity) from the highest threshold down; none where a class has nobody.

    Noisy counts can fall below zero: each point is then at least as far along as the one before.
    """
    totals = table.sum(axis=1)
    if (totals <= 0).any():
        return []
    shares = np.cumsum(table[:, ::-1], axis=1) / totals[:, None]
    along = np.clip(np.maximum.accumulate(shares, axis=1), 0.0, 1.0)
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in zip(along[0], along[1], strict=True))]


def reliability(table: Float, *, noise: float) -> list[dict[str, Any]]:
    """Return, per group of neighbouring bins, the predicted share of positives beside the observed one with its interval."""
    bins = table.shape[1]
    groups = min(GROUPS_MOST, bins)
    centres = (np.arange(bins) + 0.5) / bins
    rows = []
    for part in np.array_split(np.arange(bins), groups):
        here, n = table[:, part], float(table[:, part].sum())
        seen = proportion(here[1], here[0], noise=noise)
        mean = float((here.sum(axis=0) * centres[part]).sum() / n) if noise == 0 and n else float(centres[part].mean())
        span = {"from": float(part[0]) / bins, "to": float(part[-1] + 1) / bins}
        rows.append({**span, "patients": _count(n, noise=noise), "predicted": mean, "observed": seen.plain()})
    return rows


def calibration_error(table: Float, *, noise: float) -> float | None:
    """Return the expected calibration error at bin centres: the mean over patients of |observed - predicted| of their group.

    What noise adds to the square of each difference is taken off it. Source: Naeini, Cooper, Hauskrecht 2015.
    """
    bins, n = table.shape[1], float(table.sum())
    if not stands_out(n, noise=noise, cells=table.size):
        return None
    centres = (np.arange(bins) + 0.5) / bins
    gaps, spreads = table[1] * (1 - centres) - table[0] * centres, (1 - centres) ** 2 + centres**2
    total = 0.0
    for part in np.array_split(np.arange(bins), min(GROUPS_MOST, bins)):
        total += math.sqrt(max(0.0, float(gaps[part].sum()) ** 2 - noise**2 * float(spreads[part].sum())))
    return total / n


def brier(table: Float) -> float | None:
    """Return the Brier score at bin centres; None without patients. Source: Brier 1950."""
    n, centres = float(table.sum()), (np.arange(table.shape[1]) + 0.5) / table.shape[1]
    return float((table[1] * (1 - centres) ** 2 + table[0] * centres**2).sum() / n) if n > 0 else None


def binary(table: Float, *, noise: float) -> dict[str, Any]:
    """Return every measure of one yes-or-no question from its scores (no or yes, bin)."""
    below = (np.arange(table.shape[1]) + 0.5) / table.shape[1] < 0.5
    no, yes = table
    right, wrong = np.concatenate([no[below], yes[~below]]), np.concatenate([no[~below], yes[below]])
    return {
        "patients": _count(float(table.sum()), noise=noise),
        "positive": _count(float(yes.sum()), noise=noise),
        "auc": auc(table, noise=noise).plain(),
        "accuracy": proportion(right, wrong, noise=noise).plain(),
        "sensitivity": proportion(yes[~below], yes[below], noise=noise).plain(),
        "specificity": proportion(no[below], no[~below], noise=noise).plain(),
    }


def calibration(table: Float, *, noise: float) -> dict[str, Any]:
    """Return how scores and shares agree, and the points of the ROC curve."""
    return {
        "reliability": reliability(table, noise=noise),
        "calibration_error": calibration_error(table, noise=noise),
        "brier": brier(table),
        "roc": [list(point) for point in roc(table)],
    }


def confusion(matrix: Float, *, noise: float, ordinal: bool) -> dict[str, Any]:
    """Return accuracy and kappa, with quadratic weights for ordinal classes, of (true class, predicted class)."""
    many = len(matrix)
    same = np.eye(many, dtype=bool)
    return {
        "patients": _count(float(matrix.sum()), noise=noise),
        "accuracy": proportion(matrix[same], matrix[~same], noise=noise).plain(),
        "kappa": kappa(matrix, noise=noise, quadratic=ordinal).plain(),
    }


def per_class(matrix: Float, *, classes: Sequence[str], noise: float) -> list[dict[str, Any]]:
    """Return each class against the rest: how many there are, and how often they and others are taken for them."""
    rows = []
    for at, name in enumerate(classes):
        own, others = np.arange(len(classes)) == at, np.arange(len(classes)) != at
        rows.append(
            {
                "class": name,
                "patients": _count(float(matrix[at].sum()), noise=noise),
                "sensitivity": proportion(matrix[at][own], matrix[at][others], noise=noise).plain(),
                "specificity": proportion(matrix[np.ix_(others, others)], matrix[others][:, own], noise=noise).plain(),
                "predictive_value": proportion(matrix[:, at][own], matrix[:, at][others], noise=noise).plain(),
            }
        )
    return rows


def kappa(matrix: Float, *, noise: float, quadratic: bool) -> Estimate:
    """Return Cohen's kappa, weighted by squared distance where `quadratic`, with its large-sample interval.

    None where nobody, or only one class, is left to agree about by chance. No interval where the large-sample error is zero, as
    when all agree: it would claim certainty.
    Source: Cohen 1968; Fleiss, Cohen, Everitt 1969: the variance is that of a ratio of sums of the counts.
    """
    many, n = len(matrix), float(matrix.sum())
    at = np.arange(many, dtype=np.float64)
    weights = (at[:, None] - at) ** 2 / max(1, many - 1) ** 2 if quadratic else (at[:, None] != at).astype(np.float64)
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    observed, chance = float((weights * matrix).sum()), float(rows @ weights @ columns)
    if not stands_out(n, noise=noise, cells=matrix.size) or chance <= 0:
        return NONE
    value = 1 - observed * n / chance
    beside = (weights @ columns)[:, None] + rows @ weights
    slope = observed * n * beside / chance**2 - (weights * n + observed) / chance
    error = math.sqrt(float((np.maximum(matrix, 0.0) * slope**2).sum()) + noise**2 * float((slope**2).sum()))
    shown = min(1.0, max(-1.0, value))
    if error == 0:
        return Estimate(value=shown)
    return Estimate(value=shown, low=max(-1.0, value - Z * error), high=min(1.0, value + Z * error))


def _count(n: float, *, noise: float) -> float | int:
    """Return a number of patients: whole where it is exact, to a tenth where it is noisy."""
    return round(n) if noise == 0 else round(n, 1)


def _clip(share: float) -> float:
    return min(1.0, max(0.0, share))
